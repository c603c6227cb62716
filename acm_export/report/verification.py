"""Show a verification as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from acm_export.verification.report import LayerRouting, SettingResult, VerificationReport


def verification_table(report: VerificationReport) -> Table:
    """One row for each setting, followed by one for each of its layers with routing disagreements."""
    table = Table(title=f"{report.runtime} compared with PyTorch, {report.precision}", title_justify="left")
    table.add_column("setting")
    kinds = ("cosine", "integers") if report.int8 is not None else ("relative", "tolerance")
    for column in ("β", "max error", "mean error", *kinds, "routed differently"):
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
            *_judged(report, setting),
            f"{count} of {tokens}",
        )
        for layer in differing:
            table.add_row(f"  {layer.name}", f"{layer.mean_share:.3f}", "", "", "", "", _disagreements(layer))
    return table


def _judged(report: VerificationReport, setting: SettingResult) -> tuple[str, str]:
    """The values that decide whether a setting passes."""
    if report.int8 is not None:
        return f"{setting.cosine:.4f}", _integers(setting)
    return f"{setting.relative:.1e}", f"{report.tolerance(setting):.1e}"


def _integers(setting: SettingResult) -> str:
    """Whether the integers of the int8 layers are exact."""
    if not setting.integers:
        return ""
    wrong = sum(one.failure is not None for one in setting.integers)
    return f"{wrong} of {len(setting.integers)} layers wrong" if wrong else "exact"


def _disagreements(layer: LayerRouting) -> str:
    """Number of disagreements, their distance from the thresholds, and the range of the listed margins."""
    text = f"{layer.disagreements}, margin within {layer.farthest:.1e} of τ"
    margins = sorted(example.margin for example in layer.examples if not math.isnan(example.margin))
    if not margins:
        return text
    which = "" if len(layer.examples) == layer.disagreements else f"the {len(layer.examples)} farthest "
    return f"{text}, {which}at {margins[0]:.3g}" + (f" to {margins[-1]:.3g}" if len(margins) > 1 else "")
