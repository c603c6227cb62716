"""The runs of a request: one for each batch size, budget and routing, with its β measured beforehand."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.files import sha256_of
from acm_export.engine.profiles import format_shape
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.file_data import open_file_data
from acm_export.onnx_file.manifest import Setting
from acm_export.onnx_file.thresholds import bound_of, check_setting, thresholds_for
from acm_export.timing import routing
from acm_export.timing.inputs import (
    check_batch_sizes,
    check_same_inputs,
    data_batches,
    random_batches,
    samples_to_read,
)
from acm_export.timing.result import run_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from acm_export.base.progress import Progress
    from acm_export.data.batches import Arrays
    from acm_export.timing.backends.backend import Backend, BudgetMeter, TimedFile
    from acm_export.timing.inputs import InputBatches
    from acm_export.timing.request import LatencyRequest
    from acm_export.timing.result import RunKey
    from acm_export.timing.routing import Thresholds

_ROUNDING = 5e-4
"""Tolerance at the ends of the table: what an error message rounds away."""


@dataclass(frozen=True)
class Run:
    """One run, ready to be timed.

    Args:
        inputs: Batches to feed.
        routing: data, least, most or skewed.
        budget_requested: Requested β, or None.
        budget_measured: β from the learner counts of an untimed run of the same inputs; None if they are not visible.
        controls: Thresholds or the budget, fed with the inputs.
        own_thresholds: Whether the file stores or computes its own thresholds.
        bucket_budgets: β of each bucket of the inputs; empty if they have none.
    """

    inputs: InputBatches
    routing: str
    budget_requested: float | None
    budget_measured: float | None
    controls: Arrays
    own_thresholds: bool = False
    bucket_budgets: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        """Routing, budget and shapes, for people."""
        at = "" if self.budget_requested is None else f" at {self.budget_requested:g}"
        if self.inputs.buckets:
            every = self.inputs.buckets[0].lengths
            return f"{self.routing}{at}, {every.requests} requests of {every}, batch {self.inputs.samples}"
        return f"{self.routing}{at}, {', '.join(f'{name} {shape}' for name, shape in self.inputs.shapes.items())}"

    def key(self, streams: int) -> RunKey:
        """What identifies the same run in a result."""
        lengths = self.inputs.buckets[0].lengths if self.inputs.buckets else None
        return run_key(self.inputs.shapes, self.routing, self.budget_requested, streams, lengths)


def prepare_runs(request: LatencyRequest, backend: Backend, file: TimedFile, progress: Progress) -> tuple[Run, ...]:
    """Check the request against the file, read the inputs, and measure the β of every run.

    Memory for that is freed before anything is timed.

    Args:
        request: What to time.
        backend: Runtime that measures β.
        file: File to time.
        progress: Receives the steps.

    Raises:
        UsageError: The file does not support what is requested, or the data do not fit it.
        AcmError: The runtime cannot run the baseline.
    """
    check_batch_sizes(file.inputs, request.batch)
    thresholds = _thresholds_by_budget(request, file)
    request.checks.check_budgets(thresholds.keys())
    request.checks.check_model(file.path, file.source.sha256 if file.source else sha256_of(file.path))
    if request.baseline is not None:
        check_same_inputs(request.baseline, backend.baseline_inputs(request.baseline), file.path, file.inputs)
    inputs = _open_inputs(request, file)
    progress.stage("loading the model", None)
    runs: list[Run] = []
    with closing(backend.meter(file)) as meter:
        for batches in inputs:
            progress.stage(f"measuring budgets, batch {batches.samples}", None)
            runs += _runs_of_batch(file, thresholds, meter, batches)
    request.checks.check_runs([run.key(request.streams) for run in runs])
    return tuple(runs)


def _open_inputs(request: LatencyRequest, file: TimedFile) -> list[InputBatches]:
    """Read the inputs of each requested batch size: real data, or random numbers.

    Raises:
        UsageError: The data do not fit the model, or the engine was not built for these shapes.
    """
    sizes, data = dict.fromkeys(request.batch), None
    if request.data is not None:
        data = open_file_data(
            request.data,
            file.inputs,
            path=file.path,
            manifest=file.manifest,
            processor=request.processor,
            limit=samples_to_read(file.inputs, max(sizes)),
        )
    opened = []
    for size in sizes:
        example = file.manifest.example_inputs
        opened.append(random_batches(file.inputs, example, size) if data is None else data_batches(data, size))
        for batch in opened[-1].batches:
            _check_profiles(file, {name: array.shape for name, array in batch.items()})
        if opened[-1].buckets and request.cuda_graph:
            raise UsageError(
                f"a CUDA graph has one shape; {request.data} has requests of {opened[-1].buckets[0].lengths}",
                "leave --cuda-graph out, or give samples of equal length",
            )
    return opened


def _check_profiles(file: TimedFile, shapes: Mapping[str, Sequence[int]]) -> None:
    for name, (low, _, high) in file.profiles.items():
        shape = shapes.get(name)
        if shape is not None and not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            raise UsageError(
                f"{file.path} was built for shapes of {name} from {format_shape(low)} to {format_shape(high)}, not for "
                f"{format_shape(shape)}",
                "choose a --batch inside that range, or build the engine with other --min-shapes and --max-shapes",
            )


def _thresholds_by_budget(request: LatencyRequest, file: TimedFile) -> dict[float | None, Thresholds | None]:
    """Thresholds for each requested β; for None those of ``--threshold`` or the file, None if only an engine has them.

    Raises:
        UsageError: The file does not support the budget or the threshold.
    """
    if request.budgets:
        return {budget: _from_table(file, budget) for budget in request.budgets}
    if request.threshold is not None:
        return {None: _from_threshold(file, request.threshold)}
    if file.stored is None and file.takes_thresholds:
        raise UsageError(
            f"{file.path} does not record which thresholds it is set to", "give --budgets, --threshold or --onnx"
        )
    return {file.manifest.setting.budget: file.stored}


def _runs_of_batch(
    file: TimedFile,
    thresholds_by_budget: Mapping[float | None, Thresholds | None],
    meter: BudgetMeter,
    inputs: InputBatches,
) -> Iterator[Run]:
    """The runs of one batch size: each budget with the routing of the data and skewed, then the least and the most."""
    layers, bound = file.manifest.layers, file.manifest.setting.max_learners
    kinds: list[tuple[str, float | None, Thresholds | None]] = []
    for budget, thresholds in thresholds_by_budget.items():
        kinds.append((routing.DATA, budget, thresholds))
        if file.takes_thresholds and routing.can_be_skewed(layers) and thresholds is not None:
            skewed = meter.skewed(inputs, thresholds, bound)
            kinds += [] if skewed is None else [(routing.SKEWED, budget, skewed)]
    if file.takes_thresholds:
        kinds += [(routing.LEAST, None, routing.least(layers)), (routing.MOST, None, routing.most(layers, bound))]
    for kind, budget, thresholds in kinds:
        own = not file.takes_thresholds or (file.takes_budget and kind == routing.DATA)
        controls: Arrays = {}
        if own and file.takes_budget:
            controls = {INPUT: np.array(budget, np.float32)}
        elif not own and thresholds is not None:
            controls = {layer.thresholds: thresholds[layer.name] for layer in layers}
        measured = meter.budget(inputs, thresholds, controls)
        parts = tuple(meter.budget(inputs.of(bucket), thresholds, controls) for bucket in inputs.buckets[1:])
        yield Run(inputs, kind, budget, measured, controls, own, (measured, *parts) if inputs.buckets else ())


def _from_table(file: TimedFile, budget: float) -> Thresholds:
    manifest, path = file.manifest, file.path
    if not (file.takes_thresholds or file.takes_budget):
        raise UsageError(
            f"{path} has fixed thresholds: every budget in --budgets would time the same work",
            "leave --budgets out, or build it from a file that was calibrated with --budget-input",
        )
    if manifest.calibration is None:
        raise UsageError(
            f"{path} is not calibrated: it has no table from budgets to thresholds",
            f"calibrate it: acm-export calibrate {path} --data D --budgets 0.25,0.5,0.75 -o CALIBRATED.onnx; or leave "
            "--budgets out, or give --threshold",
        )
    table = manifest.calibration.table
    if not table.smallest - _ROUNDING <= budget <= table.largest + _ROUNDING:
        raise UsageError(
            f"the budget {budget:g} is outside the table of {path.name}, which goes from {table.smallest:.4g} "
            f"to {table.largest:.4g}",
            "choose a budget within the table, or calibrate with that budget",
        )
    thresholds, bound = table.at(budget), manifest.setting.max_learners
    return {e.name: np.asarray(thresholds[e.name] + bound_of(e, bound), np.float32) for e in manifest.layers}


def _from_threshold(file: TimedFile, threshold: float) -> Thresholds:
    manifest = file.manifest
    if file.takes_budget:
        raise UsageError(f"{file.path} computes its thresholds from its input budget", "give --budgets")
    if not file.takes_thresholds:
        raise UsageError(f"{file.path} has fixed thresholds", "leave --threshold out")
    setting = Setting(threshold, manifest.setting.max_learners)
    check_setting(setting, manifest.layers)
    return {layer.name: thresholds_for(layer, setting) for layer in manifest.layers}
