"""Measure a whole ViT-B/16 with ACM layers beside the rival that most users would try first: the dense model in int8.

What: the models of ``whole_model.py`` (random weights, float32, target portable). The rival is the exported dense model
after ``onnxruntime.quantization.quantize_dynamic``: weights of all matrix products in int8, one scale for each output
column, activations quantised at run time. Random weights say nothing about what int8 costs in accuracy; only time is
measured.

How: as ``whole_model.py``; every case, the int8 model among them, lies between two blocks of the dense float32 model.

Run: ``python benchmarks/whole_model_int8.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import Timing, interleaved, parser, print_table, write_result
from onnxruntime.quantization import quantize_dynamic
from random_vit import NUM_LEARNERS, TINY, VIT_B, random_vit
from whole_model import QUICK, SHARES, SIZES, THREADS, Runner, images, thresholds_for

from acm_export.exporter import export
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession


@dataclass(frozen=True)
class Row:
    """One case beside the dense float32 model.

    Args:
        batch: Images in a run.
        what: ``dense, int8`` or ``ACM, float32``.
        budget: β as executed; None for the dense model.
        timing: Time ÷ that of the dense float32 model.
    """

    batch: int
    what: str
    budget: float | None
    timing: Timing


def main() -> None:
    """Export, quantise, measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    shape, sizes = (TINY, QUICK) if options.quick else (VIT_B, SIZES)
    rows: list[Row] = []
    with TemporaryDirectory() as name:
        folder, model = Path(name), random_vit(shape, acm=True)
        example = {key: torch.from_numpy(value) for key, value in images(model, 2).items()}
        acm, dense = (
            Runner(export(module, example, folder / f"{kind}.onnx", output_fields=("logits",)))
            for kind, module in (("acm", model), ("dense", random_vit(shape, acm=False)))
        )
        quantize_dynamic(folder / "dense.onnx", folder / "int8.onnx", per_channel=True)
        int8 = CpuSession(read_model(folder / "int8.onnx"), folder, threads=THREADS)
        for size in sizes:
            inputs = images(model, size.batch)
            feeds = {share: inputs | thresholds_for(model, inputs, share) for share in SHARES}
            budgets: dict[float | None, float] = {share: acm.budget(case) for share, case in feeds.items()}
            cases = {None: partial(int8.run, inputs, ["logits"])} | {
                share: partial(acm.session.run, case, ["logits"]) for share, case in feeds.items()
            }
            baseline = partial(dense.session.run, inputs, ["logits"])
            timings = interleaved(cases, baseline, rounds=size.rounds, runs=size.runs)
            rows += [
                Row(size.batch, "dense, int8" if share is None else "ACM, float32", budgets.get(share), timing)
                for share, timing in timings.items()
            ]
    print_table(
        f"{shape.name} shape, random weights, ONNX Runtime, {THREADS} threads",
        ["batch", "model", "β", "time ÷ dense float32", "quartiles", "ms"],
        [
            [
                str(row.batch), row.what, "" if row.budget is None else f"{row.budget:.2f}", f"{row.timing.ratio:.2f}",
                f"{row.timing.ratio_q25:.2f} to {row.timing.ratio_q75:.2f}", f"{row.timing.ms:.1f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    case = {"shape": asdict(shape), "num_learners": NUM_LEARNERS, "dtype": "fp32", "threads": THREADS}
    write_result("whole_model_int8", {"case": case, "rows": [asdict(row) for row in rows]}, options)


if __name__ == "__main__":
    main()
