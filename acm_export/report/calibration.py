"""Result of a calibration as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.calibration.result import CalibrationResult
    from acm_export.onnx_file.budget_table import Calibration


def calibration_table(result: CalibrationResult) -> Table:
    """One row for each requested budget, measured on both parts of the data and compared with simpler solvers."""
    record = _record(result)
    precision = f" ({result.manifest.precision})" if result.manifest.quantization is not None else ""
    table = Table(title=f"{result.path.name}{precision}: {record.solver}, {result.runtime}", title_justify="left")
    for column in ("β requested", "calibration", "held out", "± 2 standard errors", "divergence", "accuracy %"):
        table.add_column(column, justify="right")
    names = sorted({name for c in result.comparisons for name in c.rivals})
    for name in names:
        table.add_column(f"{name}: divergence", justify="right")
    rivals = {c.budget: c.rivals for c in result.comparisons}
    measured = {c.budget: c.knot.measured for c in result.comparisons}
    for request in record.requests:
        held_out, error = request.held_out, request.standard_error
        knot = measured.get(request.requested)
        beside = rivals.get(request.requested, {})
        table.add_row(
            f"{request.requested:.3f}",
            f"{request.calibration:.3f}",
            "" if held_out is None else f"{held_out:.3f}",
            "" if error is None else f"{2 * error:.3f}",
            f"{knot.divergence:.3g}" if knot else "",
            "" if knot is None or knot.accuracy is None else f"{100 * knot.accuracy:.1f}",
            *(f"{beside[name].measured.divergence:.3g}" if name in beside else "" for name in names),
        )
    return table


def describe_calibration(result: CalibrationResult) -> Iterator[str]:
    """Lines below the table."""
    record = _record(result)
    yield f"divergence: {record.divergence}, from the output with all learners, on the calibration data"
    yield (
        f"table from {record.samples} samples, checked on {record.held_out_samples}; "
        f"{len(record.table.budgets)} knots from β {record.table.smallest:.3f} to {record.table.largest:.3f}, "
        f"τ = 0 has β₀ {record.trained_budget:.3f}"
    )
    rounds = [c.knot.rounds for c in result.comparisons]
    if rounds:
        yield f"each budget took {min(rounds)} to {max(rounds)} rounds of measuring and correcting thresholds"
    yield from result.notes
    if record.budget_input:
        yield f"wrote {result.path}, which takes the budget as an input of each call"
    else:
        yield f"wrote {result.path}, set to τ = 0; set another budget with: acm-export set-budget {result.path} BUDGET"


def _record(result: CalibrationResult) -> Calibration:
    record = result.manifest.calibration
    if record is None:
        raise ValueError("the manifest has no calibration")
    return record
