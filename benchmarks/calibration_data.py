"""Shared by the calibration benchmarks: data in memory, a table measured on unseen data, and its errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import print_table

from acm_export.calibration.evaluator import Evaluator
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from acm_export.calibration.result import CalibrationResult
    from acm_export.data.batches import Arrays
    from acm_export.runtimes.session import TappedSession
    from acm_export.verification.measurement import Measurement

REQUESTED = (0.25, 0.4, 0.6, 0.75)
BETWEEN = (0.33, 0.47, 0.67, 0.85)
LIMIT = 0.01


def labelled(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Arrays:
    """Images and their classes."""
    return {"pixel_values": images, "labels": labels}


def unlabelled(images: np.ndarray[Any, Any]) -> Arrays:
    """Images alone."""
    return {"pixel_values": images}


def unseen(session: TappedSession, arrays: Arrays, batch: int) -> Evaluator:
    """Create an evaluator on images that no table was calibrated on."""
    data = open_data(arrays, session.inputs, model_folder=Path())
    evaluator = Evaluator(session, partial(data.batches, batch))
    evaluator.reference()
    return evaluator


def error_row(budget: float, measured: Measurement, kind: str) -> dict[str, Any]:
    """Error of one budget, and whether it is within the limit."""
    deviation = 2 * (measured.standard_error or 0.0)
    error = measured.budget - budget
    return {
        "kind": kind,
        "requested": budget,
        "measured": measured.budget,
        "error": error,
        "two_standard_errors": deviation,
        "within": bool(abs(error) <= max(LIMIT, deviation)),
        "divergence": measured.divergence,
        "accuracy": measured.accuracy,
        "samples": measured.samples,
    }


def table_errors(calibrated: CalibrationResult, evaluator: Evaluator) -> list[dict[str, Any]]:
    """Measure the table at each budget, on images it was not calibrated on."""
    record = calibrated.manifest.calibration
    if record is None:
        raise ValueError("not calibrated")
    rows = []
    for kind, budgets in (("knot", REQUESTED), ("between", BETWEEN)):
        for budget in budgets:
            measured = evaluator.measure(np.concatenate(list(record.table.at(budget).values())))
            rows.append(error_row(budget, measured, kind))
    return rows


def print_errors(rows: list[dict[str, Any]], title: str) -> None:
    """Print how many budgets are within the limit, and the worst of each kind."""
    summary = []
    for kind in ("knot", "between", "input"):
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            worst = max(mine, key=lambda row: abs(row["error"]))
            within = sum(row["within"] for row in mine)
            summary.append(
                (kind, f"{within} of {len(mine)}", f"{worst['error']:+.4f}", f"{worst['two_standard_errors']:.4f}")
            )
    print_table(title, ("kind", "within", "worst error", "its 2 SE"), summary)
