"""Result of a quantisation as a table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.quantization.result import QuantizationResult

_KINDS = {"learners": "ACM layers", "linear": "linear layers", "embedding": "embedding tables"}
_MEGA = 1e6


def quantization_table(result: QuantizationResult) -> Table:
    """One row for each kind of layer that runs in int8, with the errors of their outputs."""
    setting = result.manifest.quantization
    if setting is None:
        raise ValueError("the manifest has no quantisation")
    title = f"{result.path.name}: {setting.activations} activations, {setting.weight_bits}-bit weights"
    table = Table(title=title, title_justify="left")
    table.add_column("int8")
    for column in ("number", "median error %", "largest error %"):
        table.add_column(column, justify="right")
    table.add_column("largest in")
    for kind, name in _KINDS.items():
        parts = [part for part in result.parts if part.kind == kind]
        if not parts:
            continue
        errors = [(part.error, part.name) for part in parts if part.error is not None]
        worst = max(errors, default=None)
        table.add_row(
            name,
            str(len(parts)),
            f"{_percent(float(np.median([error for error, _ in errors])))}" if errors else "",
            "" if worst is None else _percent(worst[0]),
            "" if worst is None else worst[1],
        )
    return table


def describe_quantization(result: QuantizationResult) -> Iterator[str]:
    """Lines below the table."""
    yield from _quality(result)
    for reason, number in Counter(kept.reason for kept in result.kept).items():
        first = next(kept.name for kept in result.kept if kept.reason == reason)
        yield f"in float: {first}" + (f" and {number - 1} more" if number > 1 else "") + f" ({reason})"
    if moved := [abs(knot.after - knot.before) for knot in result.knots if knot.after is not None]:
        yield f"the budgets of {len(moved)} knots were measured again; they changed by at most {max(moved):.4f}"
    yield from result.notes
    yield (
        f"wrote {result.path}: {result.bytes_after / _MEGA:.1f} MB, {result.bytes_after / result.bytes_before:.2f} of "
        f"the float file's {result.bytes_before / _MEGA:.1f} MB"
    )


def _quality(result: QuantizationResult) -> Iterator[str]:
    if result.comparisons:
        kind = "held-out samples" if result.held_out else "samples that set the scales"
        yield f"outputs against the float file on {result.compared_samples} {kind}, at the same thresholds:"
    for row in result.comparisons:
        budgets = ""
        if row.float_budget is not None and row.int8_budget is not None and row.rerouted is not None:
            moved = f"{100 * row.rerouted:.2g}% of tokens rerouted"
            budgets = f", β {row.float_budget:.3f} in float, {row.int8_budget:.3f} in int8, {moved}"
        yield (
            f"  {row.setting}: cosine {row.cosine:.4f}, at least {row.least_cosine:.4f}, largest error "
            f"{row.max_error:.3g}{budgets}"
        )


def _percent(error: float) -> str:
    """A relative squared error as the size of the error relative to the size of the output."""
    return f"{100 * error**0.5:.2f}"
