"""Measure a whole ViT-B/16 with ACM layers against the rival that most users try first: the dense model in int8.

What: the models of ``whole_model.py`` (random weights, float32, target portable). The rival is the exported dense model
after ``onnxruntime.quantization.quantize_dynamic``: weights of all matrix products in int8, one scale for each output
column, activations quantised at run time. Random weights say nothing about what int8 costs in accuracy; only time is
measured.

How: as ``whole_model.py``; every case, including the int8 model, lies between two blocks of the dense float32 model.

Run: ``python benchmarks/whole_model_int8.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import ResultFile, Timing, interleaved, parser, print_table
from onnxruntime.quantization import quantize_dynamic
from random_vit import NUM_LEARNERS, TINY, VIT_B, random_vit
from whole_model import QUICK, SHARES, SIZES, THREADS, Arrays, Runner, Size, images, thresholds_for

from acm_export.exporter import export
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession

INT8, ACM = "dense, int8", "ACM, float32"


@dataclass(frozen=True)
class Rivals:
    """Sessions of the dense model.

    Args:
        dense: The model in float32, the baseline.
        int8: The quantised model.
    """

    dense: CpuSession
    int8: CpuSession


@dataclass(frozen=True)
class Row:
    """One case compared with the dense float32 model.

    Args:
        batch: Images in a run.
        what: ``dense, int8`` or ``ACM, float32``.
        budget: Executed β; None for the dense model.
        timing: Time ÷ that of the dense float32 model.
    """

    batch: int
    what: str
    budget: float | None
    timing: Timing


def measure(size: Size, inputs: Arrays, feeds: dict[float, Arrays], acm: Runner, rivals: Rivals) -> list[Row]:
    """The int8 model and every share, each between two blocks of the dense float32 model."""
    cases = {None: partial(rivals.int8.run, inputs, ["logits"])} | {
        share: partial(acm.session.run, case, ["logits"]) for share, case in feeds.items()
    }
    baseline = partial(rivals.dense.run, inputs, ["logits"])
    timings = interleaved(cases, baseline, rounds=size.rounds, runs=size.runs)
    return [
        Row(size.batch, INT8, None, timing) if share is None else Row(size.batch, ACM, acm.budget(feeds[share]), timing)
        for share, timing in timings.items()
    ]


def main() -> None:
    """Export, quantise, measure, print, and write after each batch size."""
    options = parser(__doc__ or "").parse_args()
    shape, sizes = (TINY, QUICK) if options.quick else (VIT_B, SIZES)
    result, rows = ResultFile("whole_model_int8", options), list[Row]()
    result.add("case", {"shape": asdict(shape), "num_learners": NUM_LEARNERS, "dtype": "fp32", "threads": THREADS})
    with TemporaryDirectory() as name:
        folder, model = Path(name), random_vit(shape, acm=True)
        example = {key: torch.from_numpy(value) for key, value in images(model, 2).items()}
        acm, dense = (
            Runner(export(module, example, folder / f"{kind}.onnx", output_fields=("logits",)))
            for kind, module in (("acm", model), ("dense", random_vit(shape, acm=False)))
        )
        quantize_dynamic(folder / "dense.onnx", folder / "int8.onnx", per_channel=True)
        rivals = Rivals(dense.session, CpuSession(read_model(folder / "int8.onnx"), folder, threads=THREADS))
        for size in sizes:
            inputs = images(model, size.batch)
            feeds = {share: inputs | thresholds_for(model, inputs, share) for share in SHARES}
            rows += measure(size, inputs, feeds, acm, rivals)
            result.add("rows", [asdict(row) for row in rows])
    print_table(
        f"{shape.name} shape, random weights, ONNX Runtime, {THREADS} threads",
        ["batch", "model", "β", "time ÷ dense float32", "quartiles", "ms"],
        [
            [
                str(row.batch),
                row.what,
                "" if row.budget is None else f"{row.budget:.2f}",
                f"{row.timing.ratio:.2f}",
                f"{row.timing.ratio_q25:.2f} to {row.timing.ratio_q75:.2f}",
                f"{row.timing.ms:.1f}",
            ]
            for row in rows
        ],
    )
    print(f"wrote {result.path}")


if __name__ == "__main__":
    main()
