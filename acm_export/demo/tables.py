"""The demonstration as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from acm_export.demo.run import Demo


def ffn_table(demo: Demo) -> Table:
    """Time against share for the op alone."""
    table = Table(title="FFN of ViT-B, 197 tokens, random weights", title_justify="left")
    table.add_column("learners run", justify="right", min_width=18)
    table.add_column("time ÷ dense", justify="right", min_width=18)
    for row in demo.ffn:
        table.add_row(f"{row.share:.3f}", f"{row.time_ratio:.2f}")
    return table


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
