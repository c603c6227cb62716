"""What will be timed: checked against the file before any work, then prepared with measured budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.budget_input import INPUT
from acm_export.calibration.session import CalibrationSession
from acm_export.calibration.thresholds import bound_of, check_setting, thresholds_for
from acm_export.errors import ModelFileError, UsageError
from acm_export.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.latency import routing
from acm_export.latency.inputs import Feeds, check_batch_sizes, data_feeds, random_feeds
from acm_export.latency.runtime import required_inputs
from acm_export.manifest import Manifest, Setting, read_manifest
from acm_export.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from acm_export.calibration.data import Arrays, GraphInput, Source
    from acm_export.calibration.progress import Progress
    from acm_export.latency.routing import Thresholds
    from acm_export.runtimes.onnx_runtime import Session

_ROUNDING = 5e-4
"""A budget may miss the ends of the table by what an error message rounds away."""


@dataclass(frozen=True)
class Choice:
    """A setting of the dials: what was asked for, and its thresholds."""

    budget_requested: float | None
    thresholds: Thresholds


@dataclass(frozen=True)
class Plan:
    """A file and what to run of it.

    Args:
        path: The file.
        manifest: Its manifest.
        inputs: What every run has to be fed; a budget input is not among them.
        choices: One for each budget, or one for the threshold or the file's own setting.
        batches: Batch sizes.
        session: What runs it.
    """

    path: Path
    manifest: Manifest
    inputs: tuple[GraphInput, ...]
    choices: tuple[Choice, ...]
    batches: tuple[int, ...]
    session: type[Session]


@dataclass(frozen=True)
class PlannedRun:
    """One run, ready to be timed.

    Args:
        feeds: Its inputs.
        routing: data, least, most or skewed.
        budget_requested: β, or None.
        budget_measured: β from the counts of an untimed run of the same inputs.
        dials: Fed beside the inputs: thresholds, or the input ``budget``.
        own_thresholds: Whether the file itself computes its thresholds, from its budget input.
    """

    feeds: Feeds
    routing: str
    budget_requested: float | None
    budget_measured: float
    dials: Arrays
    own_thresholds: bool = False


def plan(
    path: Path,
    *,
    budgets: Sequence[float] = (),
    threshold: float | None = None,
    batches: Sequence[int] = (1,),
    session: type[Session] = CpuSession,
) -> Plan:
    """Hold what is asked for against the file.

    Args:
        path: A portable file that acm-export wrote.
        budgets: β to measure at.
        threshold: τ to measure at, in their place.
        batches: Batch sizes.
        session: What runs it.

    Raises:
        UsageError: The file cannot serve a budget, the threshold or a batch.
        ModelFileError: It is broken, not ours, or not for this runtime.
    """
    if budgets and threshold is not None:
        raise UsageError("--budgets and --threshold exclude each other", "give one of them")
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    _check_runs(manifest, path, session)
    inputs = tuple(value for value in required_inputs(model) if value.name != INPUT or not manifest.budget_input)
    check_batch_sizes(inputs, batches)
    if budgets:
        choices = tuple(Choice(b, _from_table(manifest, path, b)) for b in dict.fromkeys(budgets))
    elif threshold is not None:
        choices = (Choice(None, _from_threshold(manifest, path, threshold)),)
    else:
        choices = (Choice(manifest.setting.budget, stored_thresholds(model, manifest, path.parent)),)
    return Plan(path, manifest, inputs, choices, tuple(dict.fromkeys(batches)), session)


def prepare(planned: Plan, source: Source | None, progress: Progress) -> tuple[PlannedRun, ...]:
    """Measure the budget of every run, in a session of its own that is closed before anything is timed.

    Args:
        planned: From :func:`plan`.
        source: Real data, or None for random inputs.
        progress: Is told what is being done.

    Raises:
        UsageError: The data do not fit.
    """
    progress.stage("loading the model", None)
    session = CalibrationSession(planned.path, planned.session)
    runs: list[PlannedRun] = []
    for batch in planned.batches:
        progress.stage(f"measuring budgets, batch {batch}", None)
        if source is None:
            feeds = random_feeds(planned.inputs, planned.manifest.example_inputs, batch)
        else:
            feeds = data_feeds(source, planned.inputs, batch)
        runs += _runs(planned, session, feeds)
    return tuple(runs)


def _runs(planned: Plan, session: CalibrationSession, feeds: Feeds) -> Iterator[PlannedRun]:
    layers, bound = planned.manifest.layers, planned.manifest.setting.max_learners
    kinds: list[tuple[str, float | None, Thresholds]] = []
    for choice in planned.choices:
        kinds.append((routing.DATA, choice.budget_requested, choice.thresholds))
        if routing.can_be_skewed(layers):
            skewed = routing.skewed(session, feeds, choice.thresholds, bound)
            kinds.append((routing.SKEWED, choice.budget_requested, skewed))
    kinds += [(routing.LEAST, None, routing.least(layers)), (routing.MOST, None, routing.most(layers, bound))]
    for kind, requested, thresholds in kinds:
        own = planned.manifest.budget_input and kind == routing.DATA
        dials: Arrays = {layer.thresholds: thresholds[layer.name] for layer in layers}
        if own:
            dials = {INPUT: np.array(requested, np.float32)}
        measured = routing.measured_budget(session, feeds, thresholds)
        yield PlannedRun(feeds, kind, requested, measured, dials, own)


def _check_runs(manifest: Manifest, path: Path, session: type[Session]) -> None:
    if manifest.target != "portable":
        raise ModelFileError(
            f"{path} is for the target {manifest.target}, which ONNX Runtime does not run by itself",
            "export it with --target portable; times of one target say nothing about another",
        )
    if manifest.dtype == "bf16" and session is CpuSession:
        raise ModelFileError(
            f"{path} is bf16, which ONNX Runtime's CPU provider does not have",
            "time it with --runtime onnxruntime-cuda, or export it with --dtype fp32",
        )
    if not any(layer.num_learners > layer.min_learners for layer in manifest.layers):
        raise ModelFileError(f"{path} has no gated learners: its time does not depend on a budget", "use --baseline")


def _from_table(manifest: Manifest, path: Path, budget: float) -> Thresholds:
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


def _from_threshold(manifest: Manifest, path: Path, threshold: float) -> Thresholds:
    if manifest.budget_input:
        raise UsageError(f"{path} computes its thresholds from its input budget", "give --budgets")
    setting = Setting(threshold, manifest.setting.max_learners)
    check_setting(setting, manifest.layers)
    return {layer.name: thresholds_for(layer, setting) for layer in manifest.layers}
