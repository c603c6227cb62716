"""Show a verification as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from acm_export.verification.report import LayerRouting, VerificationReport


def verification_table(report: VerificationReport) -> Table:
    """One row for each setting, followed by one for each of its layers with routing disagreements."""
    table = Table(title=f"{report.runtime} compared with PyTorch, {report.dtype}", title_justify="left")
    table.add_column("setting")
    for column in ("β", "max error", "mean error", "relative", "tolerance", "routed differently"):
        table.add_column(column, justify="right")
    for setting in report.settings:
        tokens = sum(layer.tokens for layer in setting.layers)
        differing = [layer for layer in setting.layers if layer.disagreements]
        count = sum(layer.disagreements for layer in differing)
        table.add_row(
            setting.name,
            f"{setting.budget:.3f}",
            f"{setting.max_abs:.2e}",
            f"{setting.mean_abs:.2e}",
            f"{setting.relative:.1e}",
            f"{report.tolerance(setting):.1e}",
            f"{count} of {tokens}",
        )
        for layer in differing:
            table.add_row(f"  {layer.name}", f"{layer.mean_share:.3f}", "", "", "", "", _disagreements(layer))
    return table


def _disagreements(layer: LayerRouting) -> str:
    """Number of disagreements, their distance from the thresholds, and the range of the listed margins."""
    text = f"{layer.disagreements}, margin within {layer.farthest:.1e} of τ"
    margins = sorted(example.margin for example in layer.examples if not math.isnan(example.margin))
    if not margins:
        return text
    which = "" if len(layer.examples) == layer.disagreements else f"the {len(layer.examples)} farthest "
    return f"{text}, {which}at {margins[0]:.3g}" + (f" to {margins[-1]:.3g}" if len(margins) > 1 else "")
