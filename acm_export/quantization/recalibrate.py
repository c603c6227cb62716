"""Correct the budget table of a calibrated file: run every knot on the int8 file, with the same thresholds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.evaluator import Evaluator
from acm_export.calibration.families import token_count
from acm_export.calibration.table import shortest
from acm_export.onnx_file.budget_table import BudgetTable, Calibration, KnotRecord, RequestRecord
from acm_export.onnx_file.manifest import Setting
from acm_export.quantization.dial import flat_thresholds
from acm_export.quantization.result import CorrectedKnot
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from acm_export.base.progress import Progress
    from acm_export.calibration.data import CalibrationData
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.runtimes.onnx_runtime import Session
    from acm_export.verification.measurement import Measurement

WITHIN = 0.01
"""Largest difference between a requested budget and the held-out one that is not noted, besides two standard errors."""


@dataclass(frozen=True)
class Corrected:
    """A corrected calibration.

    Args:
        calibration: The calibration of the int8 file.
        knots: Budgets before and after.
        notes: Notes for the reader.
    """

    calibration: Calibration
    knots: tuple[CorrectedKnot, ...]
    notes: tuple[str, ...]


def recalibrate(
    path: Path, before: Calibration, data: CalibrationData, runtime: type[Session], progress: Progress
) -> Corrected:
    """Measure the table of a calibrated file on the int8 file.

    Args:
        path: Path of the int8 file; its thresholds may be anything.
        before: Calibration of the float file.
        data: Samples; those held out check the requested budgets.
        runtime: Session class that runs the file.
        progress: Receives stages and batches.

    Raises:
        CalibrationError: Outputs or gate logits of the int8 file are not finite.
    """
    session = TappedSession(path, runtime)
    survey = data.survey()
    rows = [flat_thresholds(before.table.at(budget), session.layers) for budget in before.table.budgets]
    progress.stage("correcting the budget table", survey.batches * (len(rows) + 2 + len(before.requests)))
    with (
        closing(Evaluator(session, data.calibration, progress.batch)) as evaluator,
        closing(Evaluator(session, data.held_out, progress.batch)) as held_out,
    ):
        tokens = sum(token_count(summaries) for summaries in evaluator.reference() if summaries)
        measured = [evaluator.measure(row) for row in rows]
        trained = evaluator.measure(np.zeros(session.num_thresholds, np.float32))
        kept = ascending([m.budget for m in measured])
        table = _table(before.table, measured, kept)
        if survey.held_out:
            held_out.reference()
        requests = []
        for record in before.requests:
            thresholds = flat_thresholds(table.at(record.requested), session.layers)
            found = evaluator.measure(thresholds)
            unseen = held_out.measure(thresholds) if survey.held_out else None
            checked = (None, None) if unseen is None else (unseen.budget, unseen.standard_error)
            requests.append(RequestRecord(record.requested, found.budget, *checked))
        divergence = evaluator.divergence
    calibration = replace(
        before,
        table=table,
        trained_budget=shortest(trained.budget),
        data_sha256=survey.sha256,
        samples=survey.samples,
        held_out_samples=survey.held_out,
        tokens=tokens,
        divergence=divergence,
        knots=tuple(KnotRecord(m.budget, m.divergence, m.accuracy) for m in (measured[i] for i in kept)),
        requests=tuple(requests),
    )
    knots = tuple(
        CorrectedKnot(budget, table.budgets[kept.index(index)] if index in kept else None)
        for index, budget in enumerate(before.table.budgets)
    )
    return Corrected(calibration, knots, tuple(_notes(calibration, knots)))


def ascending(budgets: list[float]) -> list[int]:
    """Indices of the budgets to keep so that they ascend, as float32: all that exceed those before, and the last.

    Args:
        budgets: Measured budgets of knots whose thresholds decrease.
    """
    kept: list[int] = []
    for index, budget in enumerate(map(shortest, budgets)):
        last = index == len(budgets) - 1
        while last and kept and shortest(budgets[kept[-1]]) >= budget:
            kept.pop()
        if not kept or budget > shortest(budgets[kept[-1]]):
            kept.append(index)
    return kept


def setting_after(manifest: Manifest, calibration: Calibration) -> Setting:
    """The setting of the int8 file: a budget stays that budget, as far as the corrected table reaches."""
    before = manifest.setting
    if before.budget is None:
        return before
    return Setting(None, before.max_learners, calibration.table.clamped(before.budget))


def _table(before: BudgetTable, measured: list[Measurement], kept: list[int]) -> BudgetTable:
    return BudgetTable(
        tuple(shortest(measured[index].budget) for index in kept),
        {name: tuple(rows[index] for index in kept) for name, rows in before.thresholds.items()},
    )


def _notes(calibration: Calibration, knots: tuple[CorrectedKnot, ...]) -> Iterable[str]:
    if dropped := sum(knot.after is None for knot in knots):
        yield f"{dropped} of {len(knots)} knots of the budget table were dropped: in int8 their budgets do not ascend"
    for record in calibration.requests:
        measured = record.calibration if record.held_out is None else record.held_out
        allowed = max(WITHIN, 2 * (record.standard_error or 0.0))
        if abs(measured - record.requested) > allowed:
            yield (
                f"the requested budget {record.requested:g} gives {measured:.4g} in int8; "
                "calibrate the int8 file to meet it"
            )
