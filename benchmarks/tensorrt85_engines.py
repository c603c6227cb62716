"""The whole line on a real builder: ``tensorrt-8`` files built and run by TensorRT 8.5.3 with the plugin, on a GPU.

    python benchmarks/tensorrt85_engines.py --device h100 --kit DIR --plugin LIB

Exports the embedded digits model and a ViT-B-shaped one with random weights for ``tensorrt-8`` and ``portable``, runs
the first with TensorRT and the second with ONNX Runtime on the CPU, and compares outputs and counts. The result is
rewritten after each comparison.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from common import ResultFile, parser, print_table
from random_vit import VIT_B, random_vit
from tensorrt85_kit import environment

from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import ACM, load_test_images
from acm_export.exporter import export
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from torch import nn

HERE = Path(__file__).parent
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest error of the logits relative to their largest value, over samples whose tokens were all routed alike."""

ROUTED_DIFFERENTLY = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest share of tokens with a different count: those next to a threshold."""


@dataclass(frozen=True)
class Comparison:
    """TensorRT against the portable file.

    Args:
        model: Name of the model.
        dtype: Dtype of the file.
        routed_differently: Share of tokens with a different count.
        error: Relative error of the logits over samples whose tokens were all routed identically; NaN without any.
        samples: Number of those samples.
    """

    model: str
    dtype: str
    routed_differently: float
    error: float
    samples: int

    @property
    def passed(self) -> bool:
        """Whether both stay within their limits."""
        return self.routed_differently <= ROUTED_DIFFERENTLY[self.dtype] and self.error <= TOLERANCE[self.dtype]


def compare(
    name: str, model: nn.Module, images: np.ndarray[Any, Any], dtype: str, kit: Path, plugin: Path
) -> Comparison:
    """Export one model twice, run both files, compare.

    Args:
        name: Name of the model.
        model: Module from ``pixel_values`` to ``logits``.
        images: Batch to run, float32.
        dtype: Dtype of the files.
        kit: Folder of TensorRT 8.5.3 with its ``python``.
        plugin: Plugin library built against its headers.
    """
    import torch

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        example = {"pixel_values": torch.from_numpy(images[:2])}
        for target in ("portable", "tensorrt-8"):
            export(
                model,
                example,
                folder / f"{target}.onnx",
                dtype=dtype,
                target=target,
                output_fields=["logits"],
                with_counts=True,
                verify=False,
            )
        np.savez(folder / "inputs.npz", pixel_values=images)
        files = [folder / part for part in ("tensorrt-8.onnx", "inputs.npz", "outputs.npz")]
        runner = [
            str(kit / "python"),
            str(HERE / "tensorrt85_run.py"),
            str(files[0]),
            str(plugin),
            *map(str, files[1:]),
        ]
        subprocess.run(runner, env=environment(folder / "site"), check=True)
        expected = CpuSession(read_model(folder / "portable.onnx"), folder).run({"pixel_values": images})
        with np.load(files[2]) as archive:
            actual = dict(archive)
    counts = [key for key in expected if key.startswith("counts/")]
    differ = [(actual[key] != expected[key]).reshape(len(images), -1) for key in counts]
    alike = ~np.concatenate(differ, axis=1).any(axis=1)
    logits, reference = actual["logits"][alike], expected["logits"][alike]
    error = np.abs(logits - reference).max() / np.abs(reference).max() if alike.any() else np.nan
    return Comparison(name, dtype, float(np.concatenate(differ, axis=1).mean()), float(error), int(alike.sum()))


def main() -> None:
    """Run all comparisons and print a table; exit code 1 if one fails."""
    options = parser(__doc__ or "")
    options.add_argument("--kit", type=Path, required=True, help="folder of TensorRT 8.5.3 with its python")
    options.add_argument("--plugin", type=Path, required=True, help="library built against its headers")
    given = options.parse_args()
    rng = np.random.default_rng(0)
    models: list[tuple[str, nn.Module, np.ndarray[Any, Any]]] = [
        ("digits", load_checkpoint(ACM).model, load_test_images()[0][:64]),
        (VIT_B.name, random_vit(VIT_B, acm=True), rng.standard_normal((8, 3, 224, 224)).astype(np.float32)),
    ]
    file, results = ResultFile("tensorrt85_engines", given), list[Comparison]()
    for name, model, images in models:
        for dtype in ("fp16", "fp32"):
            results.append(compare(name, model, images, dtype, given.kit, given.plugin.resolve()))
            file.add("comparisons", [asdict(result) | {"passed": result.passed} for result in results])
    print_table(
        "TensorRT 8.5.3 with the plugin against the portable file",
        ["model", "dtype", "routed differently", "error", "samples alike", "holds"],
        [
            [r.model, r.dtype, f"{r.routed_differently:.1e}", f"{r.error:.1e}", str(r.samples), str(r.passed)]
            for r in results
        ],
    )
    sys.exit(not all(result.passed for result in results))


if __name__ == "__main__":
    main()
