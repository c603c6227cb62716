"""The demonstration as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from acm_export.demo.run import Demo


def demo_table(demo: Demo) -> Table:
    """One row for each threshold, the dense model last."""
    table = Table(title=f"Embedded digits model, {demo.images} test images, {demo.runtime}", title_justify="left")
    for column in ("τ", "learners run", "β", "accuracy %", "MFLOPs / image", "time ÷ dense"):
        table.add_column(column, justify="right")
    for row in demo.rows:
        table.add_row(
            f"{row.threshold:g}", f"{row.share:.3f}", f"{row.budget:.3f}", f"{100 * row.accuracy:.1f}",
            f"{row.flops / 1e6:.3f}", f"{row.time_ratio:.2f}",
            style="bold" if row.threshold == 0 else None,
        )  # fmt: skip
    dense = demo.dense.manifest.model_flops(1) / 1e6
    table.add_section()
    table.add_row("dense", "", "", f"{100 * demo.dense_accuracy:.1f}", f"{dense:.3f}", "1.00")
    return table
