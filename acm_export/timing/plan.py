"""What will be timed: checked against the file before any work, then prepared with measured budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.engine.profiles import format_shape
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.manifest import Setting
from acm_export.onnx_file.thresholds import bound_of, check_setting, thresholds_for
from acm_export.timing import routing
from acm_export.timing.inputs import Feeds, check_batch_sizes, data_feeds, random_feeds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from acm_export.base.progress import Progress
    from acm_export.data.batches import Arrays
    from acm_export.data.dataset import Dataset
    from acm_export.timing.backend import Backend, Meter, TimedFile
    from acm_export.timing.routing import Thresholds

_ROUNDING = 5e-4
"""A budget may miss the ends of the table by what an error message rounds away."""


@dataclass(frozen=True)
class Choice:
    """A setting of the dials: what was asked for, and its thresholds; None where only an engine holds them."""

    budget_requested: float | None
    thresholds: Thresholds | None


@dataclass(frozen=True)
class Plan:
    """A file and what to run of it.

    Args:
        file: The file.
        choices: One for each budget, or one for the threshold or the file's own setting.
        batches: Batch sizes.
        backend: What runs it.
        streams: Contexts that run at once.
    """

    file: TimedFile
    choices: tuple[Choice, ...]
    batches: tuple[int, ...]
    backend: Backend
    streams: int = 1


@dataclass(frozen=True)
class PlannedRun:
    """One run, ready to be timed.

    Args:
        feeds: Its inputs.
        routing: data, least, most or skewed.
        budget_requested: β, or None.
        budget_measured: β from the counts of an untimed run of the same inputs, or None where none shows them.
        dials: Fed beside the inputs: thresholds, or the input ``budget``.
        own_thresholds: Whether the file itself has or computes its thresholds.
    """

    feeds: Feeds
    routing: str
    budget_requested: float | None
    budget_measured: float | None
    dials: Arrays
    own_thresholds: bool = False


def plan(
    path: Path,
    backend: Backend,
    *,
    budgets: Sequence[float] = (),
    threshold: float | None = None,
    batches: Sequence[int] = (1,),
    streams: int = 1,
) -> Plan:
    """Hold what is asked for against the file.

    Args:
        path: A file that the backend reads.
        backend: What runs it.
        budgets: β to measure at.
        threshold: τ to measure at, in their place.
        batches: Batch sizes.
        streams: Contexts that run at once.

    Raises:
        UsageError: The file cannot serve a budget, the threshold or a batch.
        AcmError: It is broken, not ours, or not for this runtime.
    """
    if budgets and threshold is not None:
        raise UsageError("--budgets and --threshold exclude each other", "give one of them")
    file = backend.read(path)
    check_batch_sizes(file.inputs, batches)
    if budgets:
        choices = tuple(Choice(b, _from_table(file, b)) for b in dict.fromkeys(budgets))
    elif threshold is not None:
        choices = (Choice(None, _from_threshold(file, threshold)),)
    elif file.stored is None and file.takes_thresholds:
        raise UsageError(f"{path} does not say which thresholds it is set to", "give --budgets, --threshold or --onnx")
    else:
        choices = (Choice(file.manifest.setting.budget, file.stored),)
    return Plan(file, choices, tuple(dict.fromkeys(batches)), backend, streams)


def prepare(planned: Plan, source: Dataset | None, progress: Progress) -> tuple[PlannedRun, ...]:
    """Measure the budget of every run, by what is closed before anything is timed.

    Args:
        planned: From :func:`plan`.
        source: Real data, or None for random inputs.
        progress: Is told what is being done.

    Raises:
        UsageError: The data do not fit.
    """
    fed = [_feeds(planned.file, source, batch) for batch in planned.batches]
    progress.stage("loading the model", None)
    meter = planned.backend.meter(planned.file)
    runs: list[PlannedRun] = []
    try:
        for batch, feeds in zip(planned.batches, fed, strict=True):
            progress.stage(f"measuring budgets, batch {batch}", None)
            runs += _runs(planned, meter, feeds)
    finally:
        meter.close()
    return tuple(runs)


def left_out(planned: Plan, runs: Sequence[PlannedRun]) -> Iterator[str]:
    """What is not in the result because the file does not allow it, and what would."""
    file = planned.file
    if not file.takes_thresholds:
        yield (
            "controlled routing is left out: the engine takes no thresholds; build it with --threshold-inputs for "
            "skewed, least and most"
        )
    elif routing.can_be_skewed(file.manifest.layers) and all(run.routing != routing.SKEWED for run in runs):
        yield "skewed routing is left out: it takes gate logits; give the file it was built from with --onnx"
    if any(run.budget_measured is None for run in runs):
        yield (
            "β was not measured: the engine does not give its learner counts; build it without --no-counts, or give "
            "the file it was built from with --onnx"
        )


def _feeds(file: TimedFile, source: Dataset | None, batch: int) -> Feeds:
    if source is None:
        feeds = random_feeds(file.inputs, file.manifest.example_inputs, batch)
    else:
        feeds = data_feeds(source, batch)
    for name, shapes in file.profiles.items():
        shape, (low, _, high) = feeds.shapes.get(name), shapes
        if shape is not None and not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            raise UsageError(
                f"{file.path} was built for shapes of {name} from {format_shape(low)} to {format_shape(high)}; "
                f"{format_shape(shape)} lies outside",
                "choose --batch inside it, or build it with --min-shapes and --max-shapes that hold it",
            )
    return feeds


def _runs(planned: Plan, meter: Meter, feeds: Feeds) -> Iterator[PlannedRun]:
    file = planned.file
    layers, bound = file.manifest.layers, file.manifest.setting.max_learners
    kinds: list[tuple[str, float | None, Thresholds | None]] = []
    for choice in planned.choices:
        kinds.append((routing.DATA, choice.budget_requested, choice.thresholds))
        if file.takes_thresholds and routing.can_be_skewed(layers) and choice.thresholds is not None:
            skewed = meter.skewed(feeds, choice.thresholds, bound)
            kinds += [] if skewed is None else [(routing.SKEWED, choice.budget_requested, skewed)]
    if file.takes_thresholds:
        kinds += [(routing.LEAST, None, routing.least(layers)), (routing.MOST, None, routing.most(layers, bound))]
    for kind, requested, thresholds in kinds:
        own = not file.takes_thresholds or (file.takes_budget and kind == routing.DATA)
        dials: Arrays = {}
        if own and file.takes_budget:
            dials = {INPUT: np.array(requested, np.float32)}
        elif not own and thresholds is not None:
            dials = {layer.thresholds: thresholds[layer.name] for layer in layers}
        yield PlannedRun(feeds, kind, requested, meter.budget(feeds, thresholds, dials), dials, own)


def _from_table(file: TimedFile, budget: float) -> Thresholds:
    manifest, path = file.manifest, file.path
    if not (file.takes_thresholds or file.takes_budget):
        raise UsageError(
            f"{path} is fixed to one setting of its thresholds: --budgets would time it again and again",
            "leave --budgets out, or build it from a file that was calibrated with --budget-input",
        )
    if manifest.calibration is None:
        raise UsageError(
            f"{path} is not calibrated: it has no table from budgets to thresholds",
            "calibrate it with: acm-export calibrate, or leave --budgets out, or give --threshold",
        )
    table = manifest.calibration.table
    if not table.smallest - _ROUNDING <= budget <= table.largest + _ROUNDING:
        raise UsageError(
            f"the budget {budget:g} is outside the table of {path.name}, which reaches from {table.smallest:.4g} "
            f"to {table.largest:.4g}",
            "measure inside it, or calibrate with that budget",
        )
    thresholds, bound = table.at(budget), manifest.setting.max_learners
    return {e.name: np.asarray(thresholds[e.name] + bound_of(e, bound), np.float32) for e in manifest.layers}


def _from_threshold(file: TimedFile, threshold: float) -> Thresholds:
    manifest = file.manifest
    if file.takes_budget:
        raise UsageError(f"{file.path} computes its thresholds from its input budget", "give --budgets")
    if not file.takes_thresholds:
        raise UsageError(f"{file.path} is fixed to one setting of its thresholds", "leave --threshold out")
    setting = Setting(threshold, manifest.setting.max_learners)
    check_setting(setting, manifest.layers)
    return {layer.name: thresholds_for(layer, setting) for layer in manifest.layers}
