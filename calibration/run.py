"""The run of a calibration: margins, a solver, the budget table, and its check on held-out data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.calibration.blend import Blend
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
from acm_export.onnx_file.budget_table import Calibration, KnotRecord, RequestRecord
from acm_export.onnx_file.manifest import Setting

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.progress import Progress
    from acm_export.calibration.families import ModelMargins, ThresholdFamily
    from acm_export.calibration.knots import Comparison, Knot
    from acm_export.data.dataset import Dataset
    from acm_export.onnx_file.budget_table import BudgetTable
    from acm_export.runtimes.session import TappedSession

SOLVERS = ("sensitivity", "uniform")


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate for, and how.

    Args:
        budgets: β that the table must meet; may be empty.
        solver: One of :data:`SOLVERS`.
        budget_input: Whether the graph gets an input ``budget``.
        probe_samples: Samples with which the solver ``sensitivity`` probes each learner.
        batch: Samples at a time.
        precision: Largest accepted value of two standard errors of a requested budget; None for any.
        examples: Whether to keep some held-out samples with their learner counts.

    Raises:
        UsageError: The solver is unknown, a count is below 1, or the precision is not positive or has no budget to
            apply to.
    """

    budgets: list[float]
    solver: str
    budget_input: bool
    probe_samples: int
    batch: int
    precision: float | None
    examples: bool

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UsageError(f"unknown solver {self.solver!r}", f"choose one of {', '.join(SOLVERS)}")
        for name in ("batch", "probe_samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.precision is not None and not (self.budgets and self.precision > 0):
            raise UsageError(
                f"the precision is {self.precision:g}" if self.budgets else "a precision is given, but no budget",
                "give budgets, and a precision such as 0.01",
            )


class CalibrationRun:
    """Evaluates the model on three parts of the data: to make the table, to probe learners, to check the table.

    Args:
        request: What to calibrate for.
        session: Session of the model.
        dataset: Samples for the model.
        progress: Receives stages and batches.

    Raises:
        UsageError: A sample does not fit the model, or there are too few.
    """

    def __init__(
        self, request: CalibrationRequest, session: TappedSession, dataset: Dataset, progress: Progress
    ) -> None:
        self._request, self._session, self._progress = request, session, progress
        self._data = data = CalibrationData(dataset, batch_size=request.batch)
        progress.stage(f"reading {data.name}", None)
        self._survey = data.survey()
        self._calibration = Evaluator(session, data.calibration, progress.batch)
        self._probe = Evaluator(session, partial(data.probe, request.probe_samples), progress.batch)
        self._held_out = Evaluator(session, data.held_out, progress.batch)

    def close(self) -> None:
        """Remove the temporary files."""
        for evaluator in (self._calibration, self._probe, self._held_out):
            evaluator.close()

    def result(self, output: Path) -> CalibrationResult:
        """Find the table and check it; nothing is written.

        Args:
            output: Path of the new file, which the result names.

        Raises:
            CalibrationError: A budget cannot be reached, or not closely enough on these data; or a gate gives NaN.
        """
        session, request = self._session, self._request
        margins = self._margins()
        trained = self._calibration.measure(np.zeros(session.num_thresholds, np.float32))
        knots, comparisons = self._build(margins)
        table = as_table(knots, session.layers)
        records = self._requests(table)
        curves = self._curves(knots, comparisons)
        warn_of_lost_thresholds(session.manifest)
        bound = session.manifest.setting.max_learners
        default = table.clamped(shortest(trained.budget))
        calibration = Calibration(
            solver=request.solver,
            table=table,
            trained_budget=shortest(trained.budget),
            data_sha256=self._survey.sha256,
            samples=self._survey.samples,
            held_out_samples=self._survey.held_out,
            tokens=sum(token_count(summaries) for summaries in margins.summaries if summaries),
            divergence=self._calibration.divergence,
            knots=tuple(KnotRecord(k.measured.budget, k.measured.divergence, k.measured.accuracy) for k in knots),
            requests=records,
            budget_input=request.budget_input,
        )
        manifest = session.manifest.replaced(
            setting=Setting(None, bound, default) if request.budget_input else Setting(0.0, bound),
            calibration=calibration,
        )
        examples: tuple[Example, ...] = ()
        if request.examples and self._survey.held_out:
            thresholds = np.concatenate(list(table.at(table.clamped(trained.budget)).values()))
            examples = find_examples(session, self._data.held_out(), thresholds)
        notes = (*session.notes, *notes_on(comparisons, self._survey, trained))
        return CalibrationResult(
            path=output,
            manifest=manifest,
            runtime=session.name,
            survey=self._survey,
            knots=tuple(knots),
            comparisons=tuple(comparisons),
            curves=curves,
            trained=trained,
            examples=examples,
            notes=notes,
        )

    def _build(self, margins: ModelMargins) -> tuple[list[Knot], list[Comparison]]:
        """Knots of the table, and how they compare with the simpler solvers."""
        same_count, uniform = SameCount(margins), Uniform(margins)
        ends = [self._calibration.measure(uniform.thresholds(share)).budget for share in (0, 1)]
        check_reach(ends[0], ends[1], self._request.budgets)
        families: list[ThresholdFamily] = [uniform, same_count]
        if self._request.solver == "sensitivity":
            solver = self._sensitivity(margins)
            families = [solver, Blend(margins, solver, uniform), uniform, same_count]
        self._progress.stage("finding thresholds for each budget", None)
        candidates = [ContinuousFamily(family, margins.high) for family in families]
        rivals = [uniform.name, same_count.name]
        builder = TableBuilder(candidates, rivals, self._calibration.measure, partial(expected_budget, margins))
        whole = [expected_budget(margins, same_count.thresholds(share)) for share in same_count.whole_counts()]
        return builder.build(self._request.budgets, whole)

    def _margins(self) -> ModelMargins:
        """Margins with all learners running, and with only those running that always do."""
        layers = self._session.layers
        self._progress.stage("collecting margins", 2 * self._survey.batches)
        with_all = self._calibration.reference()
        closed = np.full(self._session.num_thresholds, np.inf, np.float32)
        margins = model_margins(layers, with_all, self._calibration.margins(closed))
        check_gates(layers, with_all)
        return margins

    def _sensitivity(self, margins: ModelMargins) -> Sensitivity:
        samples = min(self._request.probe_samples, self._survey.samples)
        batches = -(-samples // self._request.batch)
        self._progress.stage(f"probing every learner on {samples} samples", (1 + probe_states(margins)) * batches)
        self._probe.reference()
        return Sensitivity(margins, measure_benefits(margins, lambda t: self._probe.measure(t).divergence))

    def _requests(self, table: BudgetTable) -> tuple[RequestRecord, ...]:
        """Each requested budget, as the table sets it, on both parts of the data."""
        self._progress.stage("checking the requested budgets", None)
        if self._survey.held_out:
            self._held_out.reference()
        records = []
        for budget in self._request.budgets:
            thresholds = np.concatenate(list(table.at(budget).values()))
            measured = self._calibration.measure(thresholds)
            check_precision(budget, measured, self._request.precision)
            held_out = self._held_out.measure(thresholds) if self._survey.held_out else None
            checked = (None, None) if held_out is None else (held_out.budget, held_out.standard_error)
            records.append(RequestRecord(budget, measured.budget, *checked))
        return tuple(records)

    def _curves(self, knots: list[Knot], comparisons: list[Comparison]) -> tuple[CurvePoint, ...]:
        """The table and its rivals on held-out data, at the budgets where they were compared."""
        if not self._survey.held_out:
            return ()
        self._progress.stage("comparing solvers on held-out data", None)
        settings = [(c.budget, "table", c.knot.thresholds) for c in comparisons]
        settings += [(c.budget, name, rival.thresholds) for c in comparisons for name, rival in c.rivals.items()]
        settings += [(knot.budget, "table", knot.thresholds) for knot in (knots[0], knots[-1])]
        points = [CurvePoint(budget, name, self._held_out.measure(thresholds)) for budget, name, thresholds in settings]
        return tuple(sorted(points, key=lambda point: (point.family, point.requested)))
