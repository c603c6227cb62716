"""Calibrate a file: margins, a solver, the budget table, its check on held-out data, and the new file."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.files import check_writable
from acm_export.base.progress import Progress, Silent
from acm_export.calibration.checks import (
    check_gates,
    check_precision,
    check_reach,
    notes_on,
    warn_of_lost_thresholds,
)  # fmt: skip
from acm_export.calibration.evaluator import Evaluator
from acm_export.calibration.examples import Example, find_examples
from acm_export.calibration.families import Closing, expected_budget, observe, token_count
from acm_export.calibration.halfway import Halfway
from acm_export.calibration.result import Calibrated, CurvePoint
from acm_export.calibration.same_count import SameCount
from acm_export.calibration.sensitivity import Sensitivity, measure_benefits, probe_states
from acm_export.calibration.table import TableBuilder, as_table, shortest
from acm_export.calibration.uniform import Uniform
from acm_export.data.batches import CalibrationData
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.budget_table import Calibration, KnotRecord, RequestRecord
from acm_export.onnx_file.manifest import Setting, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.rewrite import write_calibrated
from acm_export.runtimes.onnx_runtime import CpuSession, Session
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from acm_export.calibration.families import Observed, ThresholdFamily
    from acm_export.calibration.table import Comparison, Knot
    from acm_export.data.batches import Batch, DataSource, Survey
    from acm_export.onnx_file.budget_table import BudgetTable
    from acm_export.verification.measurement import Measurement

SOLVERS = ("sensitivity", "uniform")


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    Args:
        solver: One of :data:`SOLVERS`.
        budget_input: Give the graph an input ``budget``.
        batch_size: Samples at a time.
        samples: To use, at most; None for all.
        probe_samples: That the solver ``sensitivity`` probes each learner with.
        precision: Refuse data on which two standard errors of a requested budget exceed this.
        runtime: The session class that runs the model.
        with_examples: Keep some held-out images or waveforms with their learner counts, for a report.
    """

    solver: str = "sensitivity"
    budget_input: bool = False
    batch_size: int = 32
    samples: int | None = None
    probe_samples: int = 256
    precision: float | None = None
    runtime: type[Session] = CpuSession
    with_examples: bool = False


def calibrate(
    path: Path,
    source: DataSource,
    budgets: Sequence[float],
    output: Path,
    options: Options = Options(),
    progress: Progress | None = None,
) -> Calibrated:
    """Find thresholds for budgets on data, and write a file that has them: :func:`find`, then ``write_calibrated``.

    Arguments, result and errors are those of :func:`find`.

    Raises:
        OutputError: The file cannot be written either; what was there is untouched.
    """
    check_writable(output)
    calibrated = find(path, source, budgets, output, options, progress)
    write_calibrated(path, calibrated.manifest, output)
    return calibrated


def find(
    path: Path,
    source: DataSource,
    budgets: Sequence[float],
    output: Path,
    options: Options = Options(),
    progress: Progress | None = None,
) -> Calibrated:
    """Find thresholds for budgets on data; writes nothing.

    Args:
        path: An exported file of any target.
        source: The data; four fifths make the table, the rest checks it.
        budgets: β that the table must meet, in [0, 1].
        output: The file that will have them, set to the trained thresholds.
        options: How.
        progress: Is told what goes on.

    Returns:
        What was found; its manifest is that of the new file.

    Raises:
        UsageError: The data do not fit the model, or a budget is none.
        CalibrationError: A budget cannot be reached, or not closely enough on these data; or a gate gives NaN.
        ModelFileError: The file is broken or not ours.
        OutputError: There is no space for the model's outputs while it is calibrated.
    """
    if outside := [budget for budget in budgets if not 0 <= budget <= 1]:
        raise UsageError(f"a budget is {outside[0]:g}", "give shares of learner FLOPs, from 0 to 1")
    if options.precision is not None and not (budgets and options.precision > 0):
        raise UsageError(
            f"the precision is {options.precision:g}" if budgets else "a precision is asked for, but no budget",
            "give --budgets, and a precision such as 0.01",
        )
    with ExitStack() as stack:
        parts = _open(path, source, options, progress or Silent(), stack)
        return _calibrate(parts, sorted(set(budgets)), options, output)


@dataclass(frozen=True)
class _Parts:
    """The model, and the data in three parts: all for the table, some of those to probe with, the rest to check."""

    session: TappedSession
    survey: Survey
    calibration: Evaluator
    probe: Evaluator
    held_out: Evaluator
    held_out_batches: Callable[[], Iterator[Batch]]
    progress: Progress


def _open(path: Path, source: DataSource, options: Options, progress: Progress, stack: ExitStack) -> _Parts:
    if options.budget_input:
        model = read_model(path)
        if not read_manifest(model, path).budget_input:
            budget_input.check_free(model)
    session = TappedSession(path, options.runtime)
    data = CalibrationData(source, session.inputs, batch_size=options.batch_size, limit=options.samples)
    progress.stage(f"looking through {data.name}", None)
    survey = data.survey()

    def probe() -> Iterator[Batch]:
        return data.probe(options.probe_samples, survey)

    def evaluator(batches: Callable[[], Iterator[Batch]]) -> Evaluator:
        opened = Evaluator(session, batches, progress.batch)
        stack.callback(opened.close)
        return opened

    return _Parts(
        session=session, survey=survey, calibration=evaluator(data.calibration), probe=evaluator(probe),
        held_out=evaluator(data.held_out), held_out_batches=data.held_out, progress=progress,
    )  # fmt: skip


def _calibrate(parts: _Parts, requested: list[float], options: Options, output: Path) -> Calibrated:
    session, layers = parts.session, parts.session.layers
    observed = _observe(parts)
    same_count, uniform = SameCount(observed), Uniform(observed)
    trained = parts.calibration.measure(np.zeros(session.num_thresholds, np.float32))
    ends = [parts.calibration.measure(uniform.thresholds(share)).budget for share in (0, 1)]
    check_reach(ends[0], ends[1], requested)
    families: list[ThresholdFamily] = [uniform, same_count]
    if options.solver == "sensitivity":
        solver = _sensitivity(parts, observed, options.probe_samples)
        families = [solver, Halfway(observed, solver, uniform), uniform, same_count]
    parts.progress.stage("finding thresholds for each budget", None)
    rivals = [uniform.name, same_count.name]
    candidates = [Closing(family, observed.high) for family in families]
    builder = TableBuilder(candidates, rivals, parts.calibration.measure, partial(expected_budget, observed))
    whole = [expected_budget(observed, same_count.thresholds(share)) for share in same_count.whole_counts()]
    knots, comparisons = builder.build(requested, whole)
    table = as_table(knots, layers)
    records = _requests(parts, table, requested, options.precision)
    curves = _curves(parts, knots, comparisons)
    warn_of_lost_thresholds(session.manifest)
    bound = session.manifest.setting.max_learners
    default = table.clamped(shortest(trained.budget))
    manifest = session.manifest.replaced(
        setting=Setting(None, bound, default) if options.budget_input else Setting(0.0, bound),
        calibration=Calibration(
            solver=options.solver, table=table, trained_budget=shortest(trained.budget),
            data_sha256=parts.survey.sha256, samples=parts.survey.samples, held_out_samples=parts.survey.held_out,
            tokens=sum(token_count(s) for s in observed.summaries if s), divergence=parts.calibration.divergence,
            knots=tuple(_record(knot.measured) for knot in knots), requests=records, budget_input=options.budget_input,
        ),
    )  # fmt: skip
    notes = (*session.notes, *notes_on(comparisons, parts.survey, trained))
    examples: tuple[Example, ...] = ()
    if options.with_examples and parts.survey.held_out:
        thresholds = np.concatenate(list(table.at(table.clamped(trained.budget)).values()))
        examples = find_examples(session, parts.held_out_batches(), thresholds)
    return Calibrated(
        output, manifest, session.name, parts.survey, tuple(knots), tuple(comparisons), curves, trained, examples, notes
    )


def _observe(parts: _Parts) -> Observed:
    """Margins where all learners run, and where only those run that always do."""
    layers = parts.session.layers
    parts.progress.stage("collecting margins", 2 * parts.survey.batches)
    with_all = parts.calibration.reference()
    closed = np.full(parts.session.num_thresholds, np.inf, np.float32)
    observed = observe(layers, with_all, parts.calibration.margins(closed))
    check_gates(layers, with_all)
    return observed


def _sensitivity(parts: _Parts, observed: Observed, probe_samples: int) -> Sensitivity:
    samples = min(probe_samples, parts.survey.samples)
    batches = min(parts.survey.batches, samples)
    parts.progress.stage(f"probing every learner on {samples} samples", (1 + probe_states(observed)) * batches)
    parts.probe.reference()
    return Sensitivity(observed, measure_benefits(observed, lambda t: parts.probe.measure(t).divergence))


def _requests(
    parts: _Parts, table: BudgetTable, requested: list[float], precision: float | None
) -> tuple[RequestRecord, ...]:
    """Each requested budget through the table, on both parts of the data."""
    parts.progress.stage("checking the requested budgets", None)
    if parts.survey.held_out:
        parts.held_out.reference()
    records = []
    for budget in requested:
        thresholds = np.concatenate(list(table.at(budget).values()))
        measured = parts.calibration.measure(thresholds)
        check_precision(budget, measured, precision)
        held_out = parts.held_out.measure(thresholds) if parts.survey.held_out else None
        records.append(
            RequestRecord(
                budget, measured.budget, held_out.budget if held_out else None,
                held_out.standard_error if held_out else None,
            )
        )  # fmt: skip
    return tuple(records)


def _curves(parts: _Parts, knots: list[Knot], comparisons: list[Comparison]) -> tuple[CurvePoint, ...]:
    """The table and its rivals on held-out data, at the budgets where they were compared."""
    if not parts.survey.held_out:
        return ()
    parts.progress.stage("comparing solvers on held-out data", None)
    settings = [(c.budget, "table", c.knot.thresholds) for c in comparisons]
    settings += [(c.budget, name, rival.thresholds) for c in comparisons for name, rival in c.rivals.items()]
    settings += [(knot.budget, "table", knot.thresholds) for knot in (knots[0], knots[-1])]
    points = [CurvePoint(budget, name, parts.held_out.measure(thresholds)) for budget, name, thresholds in settings]
    return tuple(sorted(points, key=lambda point: (point.family, point.requested)))


def _record(measured: Measurement) -> KnotRecord:
    return KnotRecord(measured.budget, measured.divergence, measured.accuracy)
