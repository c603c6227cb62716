"""Calibrate a file: margins, a solver, the budget table, its check on held-out data, and the new file."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.files import check_apart, check_onnx_suffix, check_writable
from acm_export.base.progress import Progress, Silent
from acm_export.calibration.blend import Blend
from acm_export.calibration.budgets import requested_budgets
from acm_export.calibration.checks import check_gates, check_precision, check_reach, notes_on, warn_of_lost_thresholds
from acm_export.calibration.data import CalibrationData
from acm_export.calibration.evaluator import Evaluator
from acm_export.calibration.examples import Example, find_examples
from acm_export.calibration.families import ContinuousFamily, expected_budget, model_margins, token_count
from acm_export.calibration.result import CalibrationResult, CurvePoint
from acm_export.calibration.same_count import SameCount
from acm_export.calibration.sensitivity import Sensitivity, measure_benefits, probe_states
from acm_export.calibration.table import TableBuilder, as_table, shortest
from acm_export.calibration.uniform import Uniform
from acm_export.data.open_data import open_data
from acm_export.onnx_file import budget_input as budget_dial
from acm_export.onnx_file.budget_table import Calibration, KnotRecord, RequestRecord
from acm_export.onnx_file.manifest import Setting, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.rewrite import write_calibrated
from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from acm_export.calibration.data import Survey
    from acm_export.calibration.families import ModelMargins, ThresholdFamily
    from acm_export.calibration.table import Comparison, Knot
    from acm_export.data.batches import Batch
    from acm_export.data.open_data import Data
    from acm_export.onnx_file.budget_table import BudgetTable

SOLVERS = ("sensitivity", "uniform")
_RUNTIMES = {"cpu": CpuSession, "cuda": CudaSession}


def calibrate(
    model: str | os.PathLike[str],
    data: Data,
    budgets: Iterable[float],
    output: str | os.PathLike[str],
    *,
    flops: Iterable[float] = (),
    latency_targets: Iterable[float] = (),
    latency_file: str | os.PathLike[str] | None = None,
    solver: str = "sensitivity",
    budget_input: bool = False,
    processor: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    probe_samples: int = 256,
    batch: int = 32,
    precision: float | None = None,
    device: str = "cpu",
    examples: bool = False,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Find gate thresholds for budgets on data, and write a file with a table from budgets to thresholds.

    The new file is set to the trained thresholds, τ = 0; with ``budget_input`` its default is the budget of those.

    Args:
        model: Path of an exported file, for any target.
        data: Samples, as :func:`acm_export.data.open_data.open_data` takes them; four of five make the table, the fifth
            is held out to check it.
        budgets: Budgets that the table must meet, shares β of learner FLOPs in [0, 1]; may be empty.
        output: Path of the new file; may be that of ``model``.
        flops: Budgets as FLOPs of the whole model for one sample.
        latency_targets: Budgets as milliseconds on the device that ``latency_file`` was measured on.
        latency_file: Result of ``acm-export latency`` for this file (JSON).
        solver: One of :data:`SOLVERS`.
        budget_input: Give the graph an input ``budget``.
        processor: Folder or file of the image processor's settings, where they are not beside data or model.
        samples: Samples to use at most, the first ones; None for all.
        probe_samples: Samples with which the solver ``sensitivity`` probes each learner.
        batch: Samples at a time.
        precision: Largest accepted value of two standard errors of a requested budget; None for any.
        device: ``cpu`` or ``cuda``, which runs the model.
        examples: Keep some held-out images or waveforms with their learner counts, for a report.
        progress: Receives stages and batches; silent by default.

    Returns:
        The new file's manifest, and what was measured.

    Raises:
        UsageError: The data do not fit the model, or an option is out of range.
        CalibrationError: A budget cannot be reached, or not closely enough on these data; or a gate gives NaN.
        ModelFileError: The model file is broken, not from acm-export, or has no ACM layers.
        OutputError: The new file, or a temporary one, cannot be written; what was there is untouched.
    """
    path, target = Path(model), Path(output)
    for name, value, known in (("solver", solver, SOLVERS), ("device", device, _RUNTIMES)):
        if value not in known:
            raise UsageError(f"unknown {name} {value!r}", f"choose one of {', '.join(known)}")
    line = None if latency_file is None else Path(latency_file)
    requested = requested_budgets(path, budgets, flops, latency_targets, line)
    if precision is not None and not (requested and precision > 0):
        raise UsageError(
            f"the precision is {precision:g}" if requested else "a precision is given, but no budget",
            "give budgets, and a precision such as 0.01",
        )
    check_onnx_suffix(target)
    check_apart([Path(data)] if isinstance(data, (str, os.PathLike)) else [], {"-o": target})
    check_writable(target)
    settings = _Settings(solver, budget_input, probe_samples, batch, precision, examples)
    with ExitStack() as stack:
        if budget_input:
            _check_no_input(path)
        session = TappedSession(path, _RUNTIMES[device])
        dataset = open_data(
            data, session.inputs, model_folder=path.absolute().parent, processor=processor, limit=samples
        )
        run = _open(session, CalibrationData(dataset, batch_size=batch), settings, progress or Silent(), stack)
        result = _calibrate(run, requested, target)
    write_calibrated(path, result.manifest, target)
    return result


@dataclass(frozen=True)
class _Settings:
    """Options of :func:`calibrate`."""

    solver: str
    budget_input: bool
    probe_samples: int
    batch: int
    precision: float | None
    examples: bool


@dataclass(frozen=True)
class _Run:
    """The model, and evaluators of three parts of the data: to make the table, to probe learners, to check."""

    session: TappedSession
    settings: _Settings
    survey: Survey
    calibration: Evaluator
    probe: Evaluator
    held_out: Evaluator
    held_out_batches: Callable[[], Iterator[Batch]]
    progress: Progress


def _check_no_input(path: Path) -> None:
    model = read_model(path)
    if not read_manifest(model, path).budget_input:
        budget_dial.check_free(model)


def _open(
    session: TappedSession, data: CalibrationData, settings: _Settings, progress: Progress, stack: ExitStack
) -> _Run:
    progress.stage(f"reading {data.name}", None)
    survey = data.survey()

    def evaluator(batches: Callable[[], Iterator[Batch]]) -> Evaluator:
        opened = Evaluator(session, batches, progress.batch)
        stack.callback(opened.close)
        return opened

    return _Run(
        session=session,
        settings=settings,
        survey=survey,
        calibration=evaluator(data.calibration),
        probe=evaluator(partial(data.probe, settings.probe_samples)),
        held_out=evaluator(data.held_out),
        held_out_batches=data.held_out,
        progress=progress,
    )


def _calibrate(run: _Run, requested: list[float], output: Path) -> CalibrationResult:
    session, settings = run.session, run.settings
    margins = _margins(run)
    trained = run.calibration.measure(np.zeros(session.num_thresholds, np.float32))
    knots, comparisons = _build(run, margins, requested)
    table = as_table(knots, session.layers)
    records = _requests(run, table, requested)
    curves = _curves(run, knots, comparisons)
    warn_of_lost_thresholds(session.manifest)
    bound = session.manifest.setting.max_learners
    default = table.clamped(shortest(trained.budget))
    calibration = Calibration(
        solver=settings.solver,
        table=table,
        trained_budget=shortest(trained.budget),
        data_sha256=run.survey.sha256,
        samples=run.survey.samples,
        held_out_samples=run.survey.held_out,
        tokens=sum(token_count(summaries) for summaries in margins.summaries if summaries),
        divergence=run.calibration.divergence,
        knots=tuple(KnotRecord(k.measured.budget, k.measured.divergence, k.measured.accuracy) for k in knots),
        requests=records,
        budget_input=settings.budget_input,
    )
    manifest = session.manifest.replaced(
        setting=Setting(None, bound, default) if settings.budget_input else Setting(0.0, bound),
        calibration=calibration,
    )
    examples: tuple[Example, ...] = ()
    if settings.examples and run.survey.held_out:
        thresholds = np.concatenate(list(table.at(table.clamped(trained.budget)).values()))
        examples = find_examples(session, run.held_out_batches(), thresholds)
    notes = (*session.notes, *notes_on(comparisons, run.survey, trained))
    return CalibrationResult(
        output, manifest, session.name, run.survey, tuple(knots), tuple(comparisons), curves, trained, examples, notes
    )


def _build(run: _Run, margins: ModelMargins, requested: list[float]) -> tuple[list[Knot], list[Comparison]]:
    """Knots of the table, and how they compare with the simpler solvers."""
    same_count, uniform = SameCount(margins), Uniform(margins)
    ends = [run.calibration.measure(uniform.thresholds(share)).budget for share in (0, 1)]
    check_reach(ends[0], ends[1], requested)
    families: list[ThresholdFamily] = [uniform, same_count]
    if run.settings.solver == "sensitivity":
        solver = _sensitivity(run, margins)
        families = [solver, Blend(margins, solver, uniform), uniform, same_count]
    run.progress.stage("finding thresholds for each budget", None)
    candidates = [ContinuousFamily(family, margins.high) for family in families]
    rivals = [uniform.name, same_count.name]
    builder = TableBuilder(candidates, rivals, run.calibration.measure, partial(expected_budget, margins))
    whole = [expected_budget(margins, same_count.thresholds(share)) for share in same_count.whole_counts()]
    return builder.build(requested, whole)


def _margins(run: _Run) -> ModelMargins:
    """Margins with all learners running, and with only those running that always do."""
    layers = run.session.layers
    run.progress.stage("collecting margins", 2 * run.survey.batches)
    with_all = run.calibration.reference()
    closed = np.full(run.session.num_thresholds, np.inf, np.float32)
    margins = model_margins(layers, with_all, run.calibration.margins(closed))
    check_gates(layers, with_all)
    return margins


def _sensitivity(run: _Run, margins: ModelMargins) -> Sensitivity:
    samples = min(run.settings.probe_samples, run.survey.samples)
    batches = -(-samples // run.settings.batch)
    run.progress.stage(
        f"probing every learner on {samples} sample{'s' * (samples != 1)}", (1 + probe_states(margins)) * batches
    )
    run.probe.reference()
    return Sensitivity(margins, measure_benefits(margins, lambda t: run.probe.measure(t).divergence))


def _requests(run: _Run, table: BudgetTable, requested: list[float]) -> tuple[RequestRecord, ...]:
    """Each requested budget, as the table sets it, on both parts of the data."""
    run.progress.stage("checking the requested budgets", None)
    if run.survey.held_out:
        run.held_out.reference()
    records = []
    for budget in requested:
        thresholds = np.concatenate(list(table.at(budget).values()))
        measured = run.calibration.measure(thresholds)
        check_precision(budget, measured, run.settings.precision)
        held_out = run.held_out.measure(thresholds) if run.survey.held_out else None
        checked = (None, None) if held_out is None else (held_out.budget, held_out.standard_error)
        records.append(RequestRecord(budget, measured.budget, *checked))
    return tuple(records)


def _curves(run: _Run, knots: list[Knot], comparisons: list[Comparison]) -> tuple[CurvePoint, ...]:
    """The table and its rivals on held-out data, at the budgets where they were compared."""
    if not run.survey.held_out:
        return ()
    run.progress.stage("comparing solvers on held-out data", None)
    settings = [(c.budget, "table", c.knot.thresholds) for c in comparisons]
    settings += [(c.budget, name, rival.thresholds) for c in comparisons for name, rival in c.rivals.items()]
    settings += [(knot.budget, "table", knot.thresholds) for knot in (knots[0], knots[-1])]
    points = [CurvePoint(budget, name, run.held_out.measure(thresholds)) for budget, name, thresholds in settings]
    return tuple(sorted(points, key=lambda point: (point.family, point.requested)))
