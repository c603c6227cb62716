"""Measure a whole ViT-B/16 with ACM layers in ONNX Runtime against the dense ViT-B/16.

What: both models have random weights and are exported by acm_export (verified against PyTorch), float32, target
portable. Each MLP of the ACM model is a layer with N = 4, h = 768. For a share s every layer gets the threshold that
the fraction s of its (token, learner) margins exceeds, found layer by layer in one forward pass of PyTorch on the
timed images. The reported β is the budget that ONNX Runtime actually executed. One more case runs no
learner at all (τ = +inf): its time is that of everything else (attention, norms, gates, routing), and its ratio to the
time at β is the share of the time outside learners.

How: blocks of runs, dense, ACM, dense (benchmarks/common.py), two threads, batch 1 and 8.

Run: ``python benchmarks/whole_model.py [--quick]``
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import Timing, interleaved, parser, print_table, write_result
from random_vit import NUM_LEARNERS, TINY, VIT_B, random_vit

from acm_export.exporter import ExportResult, export
from acm_export.modules import acm_layers
from acm_export.onnx_file.model_file import read_model
from acm_export.op.routing import margins
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import runnable_copy
from acm_export.surgery import interface_of
from acm_export.verification.compare import executed_budget

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from acm_export.quantization.result import QuantizationResult

THREADS = 2
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Size:
    """A batch of images and how it is measured."""

    batch: int
    rounds: int
    runs: int


SIZES = (Size(1, rounds=10, runs=5), Size(8, rounds=5, runs=3))
QUICK = (Size(1, rounds=2, runs=2),)


@dataclass(frozen=True)
class Row:
    """One case: β requested and executed, FLOPs ÷ those of the dense model, time, and its part outside learners."""

    batch: int
    share: float
    budget: float
    flops_ratio: float
    timing: Timing
    rest_part: float


class Runner:
    """An exported file with thresholds as inputs."""

    def __init__(self, exported: ExportResult | QuantizationResult) -> None:
        self.manifest = exported.manifest
        model, _ = runnable_copy(read_model(exported.path), exported.manifest)
        self.session = CpuSession(model, exported.path.parent, threads=THREADS)

    def budget(self, feeds: Arrays) -> float:
        """The executed β."""
        ran = self.session.run(feeds)
        return executed_budget(self.manifest.layers, {e.name: ran[f"counts/{e.name}"] for e in self.manifest.layers})


class _SetThresholds:
    """A hook of a layer's gate that sets the layer's τ so that the requested share of its margins exceeds it."""

    def __init__(self, thresholds: torch.Tensor, share: float) -> None:
        self._thresholds, self._share = thresholds, share

    def __call__(self, _gate: nn.Module, _args: object, logits: torch.Tensor) -> None:
        # margins never increase with the learner: each margin above τ is one learner that runs
        tau = np.quantile(margins(logits.numpy()), 1 - self._share) if 0 < self._share < 1 else np.inf
        self._thresholds.fill_(-np.inf if self._share == 1 else float(tau))


def thresholds_for(model: PreTrainedModel, inputs: Arrays, share: float) -> Arrays:
    """Thresholds of every layer, by the name of the file's input, that give ``share`` on these inputs."""
    with ExitStack() as stack, torch.no_grad():
        for _, layer in acm_layers(model):
            stack.callback(layer.gate.register_forward_hook(_SetThresholds(layer.thresholds, share)).remove)
        model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return {f"{name}.thresholds": layer.thresholds.numpy().copy() for name, layer in acm_layers(model)}


def images(model: PreTrainedModel, batch: int) -> Arrays:
    """Standard normal values in the shape of the model's input."""
    spec = interface_of(model).inputs[0]
    shape = [batch if dim == "batch" else int(dim) for dim in spec.shape]
    return {spec.name: np.random.default_rng(batch).standard_normal(shape).astype(np.float32)}


def measure(size: Size, model: PreTrainedModel, acm: Runner, dense: Runner) -> list[Row]:
    """All shares at one batch size."""
    inputs = images(model, size.batch)
    feeds = {share: inputs | thresholds_for(model, inputs, share) for share in SHARES}
    budgets = {share: acm.budget(case) for share, case in feeds.items()}
    runs = {share: partial(acm.session.run, case, ["logits"]) for share, case in feeds.items()}
    baseline = partial(dense.session.run, inputs, ["logits"])
    timings = interleaved(runs, baseline, rounds=size.rounds, runs=size.runs)
    dense_flops, rest = dense.manifest.model_flops(1), timings[0.0].ratio
    return [
        Row(
            size.batch,
            share,
            budgets[share],
            acm.manifest.model_flops(budgets[share]) / dense_flops,
            timing,
            rest / timing.ratio,
        )
        for share, timing in timings.items()
    ]


def main() -> None:
    """Export, measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    shape, sizes = (TINY, QUICK) if options.quick else (VIT_B, SIZES)
    with TemporaryDirectory() as folder:
        model = random_vit(shape, acm=True)
        example = {name: torch.from_numpy(value) for name, value in images(model, 2).items()}
        exported = {
            name: export(module, example, Path(folder) / f"{name}.onnx", output_fields=("logits",))
            for name, module in (("acm", model), ("dense", random_vit(shape, acm=False)))
        }
        acm, dense = Runner(exported["acm"]), Runner(exported["dense"])
    errors = {
        name: max(setting.relative for setting in result.report.settings)
        for name, result in exported.items()
        if result.report
    }
    rows = [row for size in sizes for row in measure(size, model, acm, dense)]
    columns = ("batch", "share", "β run", "FLOPs ÷ dense", "time ÷ dense", "quartiles", "ms", "dense ms", "rest")
    table = [
        (
            str(r.batch),
            f"{r.share:.2f}",
            f"{r.budget:.3f}",
            f"{r.flops_ratio:.3f}",
            f"{r.timing.ratio:.3f}",
            f"{r.timing.ratio_q25:.3f} - {r.timing.ratio_q75:.3f}",
            f"{r.timing.ms:.1f}",
            f"{r.timing.baseline_ms:.1f}",
            f"{r.rest_part:.1%}",
        )
        for r in rows
    ]
    print_table(f"{shape.name} against its dense model, {acm.session.name}, {THREADS} threads", columns, table)
    case = {"shape": asdict(shape), "num_learners": NUM_LEARNERS, "dtype": "fp32", "threads": THREADS}
    payload = {"case": case, "largest_relative_error": errors, "rows": [asdict(row) for row in rows]}
    write_result("whole_model", payload, options)


if __name__ == "__main__":
    main()
