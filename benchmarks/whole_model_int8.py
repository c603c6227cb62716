"""Measure a whole ViT-B/16 with ACM layers in int8 against the rival that most users try first: dense int8.

What: the models of ``whole_model.py`` (random weights, float32, target portable) and their int8 files made by
``quantize`` with the same options and images: static scales, all linear layers of the transformer. The second dense
rival is ``onnxruntime.quantization.quantize_dynamic`` of the exported dense model, weights per column. The faster of
the two int8 dense models counts. Random weights say nothing about what int8 costs in accuracy; only time and size are
measured.

How: blocks of runs, every case between two blocks of the dense float32 model (benchmarks/common.py), two threads,
batch 1 and 8.

Run: ``python benchmarks/whole_model_int8.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from common import ResultFile, Timing, interleaved, parser, print_table
from onnxruntime.quantization import quantize_dynamic
from random_vit import NUM_LEARNERS, TINY, VIT_B, random_vit
from whole_model import QUICK, SHARES, THREADS, Runner, Size, images, thresholds_for

from acm_export.exporter import export
from acm_export.onnx_file.model_file import read_model
from acm_export.quantization.quantize import quantize
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from random_vit import Shape
    from whole_model import Arrays

DENSE, STATIC, DYNAMIC = "dense, float32", "dense, int8 static", "dense, int8 dynamic"
ACM, ACM_INT8 = "ACM, float32", "ACM, int8"
FLOAT_SHARES = (1.0, 0.5)
SIZES = (Size(1, rounds=9, runs=4), Size(8, rounds=4, runs=2))
SCALE_IMAGES = 16


@dataclass(frozen=True)
class Row:
    """One case.

    Args:
        batch: Images in a run.
        what: Model and precision.
        budget: Executed β; None for a dense model.
        over_dense_int8: Time ÷ that of the faster dense int8 model.
        timing: Time ÷ that of the dense float32 model.
    """

    batch: int
    what: str
    budget: float | None
    over_dense_int8: float
    timing: Timing


class Files:
    """The files of one shape, and a session of each.

    Args:
        folder: Folder for the files.
        shape: Shape of the transformer.
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.model = random_vit(shape, acm=True)
        example = {key: torch.from_numpy(value) for key, value in images(self.model, 2).items()}
        data = images(self.model, SCALE_IMAGES)
        exported = {
            kind: export(module, example, folder / f"{kind}.onnx", output_fields=("logits",))
            for kind, module in (("acm", self.model), ("dense", random_vit(shape, acm=False)))
        }
        quantized = {kind: quantize(folder / f"{kind}.onnx", folder / f"{kind}8.onnx", data=data) for kind in exported}
        quantize_dynamic(folder / "dense.onnx", folder / "dynamic.onnx", per_channel=True)
        self.runners = {
            DENSE: Runner(exported["dense"]),
            STATIC: Runner(quantized["dense"]),
            ACM: Runner(exported["acm"]),
            ACM_INT8: Runner(quantized["acm"]),
        }
        self.dynamic = CpuSession(read_model(folder / "dynamic.onnx"), folder, threads=THREADS)
        self.size_ratios = {kind: file.bytes_after / file.bytes_before for kind, file in quantized.items()}


def measure(size: Size, files: Files) -> list[Row]:
    """The dense int8 models and the ACM models, each case between two blocks of the dense float32 model."""
    inputs = images(files.model, size.batch)
    feeds = {share: inputs | thresholds_for(files.model, inputs, share) for share in SHARES}
    runners = files.runners
    cases: dict[tuple[str, float | None], Callable[[], Arrays]] = {
        (STATIC, None): partial(runners[STATIC].session.run, inputs, ["logits"]),
        (DYNAMIC, None): partial(files.dynamic.run, inputs, ["logits"]),
    }
    for what, shares in ((ACM, FLOAT_SHARES), (ACM_INT8, SHARES)):
        cases |= {(what, share): partial(runners[what].session.run, feeds[share], ["logits"]) for share in shares}
    baseline = partial(runners[DENSE].session.run, inputs, ["logits"])
    timings = interleaved(cases, baseline, rounds=size.rounds, runs=size.runs)
    rival = min(timings[STATIC, None].ratio, timings[DYNAMIC, None].ratio)
    return [
        Row(
            size.batch,
            what,
            None if share is None else runners[what].budget(feeds[share]),
            timing.ratio / rival,
            timing,
        )
        for (what, share), timing in timings.items()
    ]


def main() -> None:
    """Export, quantise, measure, print, and write after each batch size."""
    options = parser(__doc__ or "").parse_args()
    shape, sizes = (TINY, QUICK) if options.quick else (VIT_B, SIZES)
    result, rows = ResultFile("whole_model_int8", options), list[Row]()
    result.add("case", {"shape": asdict(shape), "num_learners": NUM_LEARNERS, "dtype": "fp32", "threads": THREADS})
    with TemporaryDirectory() as name:
        files = Files(Path(name), shape)
        result.add("bytes_int8_over_float32", files.size_ratios)
        for size in sizes:
            rows += measure(size, files)
            result.add("rows", [asdict(row) for row in rows])
    print_table(
        f"{shape.name} shape, random weights, ONNX Runtime, {THREADS} threads",
        ["batch", "model", "β", "time ÷ dense int8", "÷ dense float32", "quartiles", "ms"],
        [
            [
                str(row.batch),
                row.what,
                "" if row.budget is None else f"{row.budget:.2f}",
                f"{row.over_dense_int8:.2f}",
                f"{row.timing.ratio:.2f}",
                f"{row.timing.ratio_q25:.2f} to {row.timing.ratio_q75:.2f}",
                f"{row.timing.ms:.1f}",
            ]
            for row in rows
        ],
    )
    print(f"int8 ÷ float32, bytes: {files.size_ratios}")
    print(f"wrote {result.path}")


if __name__ == "__main__":
    main()
