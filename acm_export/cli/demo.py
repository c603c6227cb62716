"""``acm-export demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.cli.common import need_export_packages, verb, write_json, write_table

if TYPE_CHECKING:
    from rich.table import Table

    from acm_export.demo.run import Demo


@click.command(short_help="Run the whole line on the embedded model and real images.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("acm-demo"),
    show_default=True,
    help="Folder for the exported files.",
)
@verb
def demo(output: Path, as_json: bool) -> None:
    """Export the embedded ACM model and the dense model it came from, verify both, and classify 360 real images.

    All rows of the table come from one file; only its thresholds change.

    \b
    Example:
      acm-export demo -o acm-demo
    """
    need_export_packages()
    from acm_export.base.optional import require

    require("onnxruntime", "sklearn")
    from acm_export.demo.run import run_demo
    from acm_export.report.verification import verification_table

    result = run_demo(output)
    if as_json:
        write_json(result.to_json())
        return
    if result.acm.report:
        write_table(verification_table(result.acm.report), *result.acm.report.notes)
    write_table(
        _model_table(result),
        "τ = 0 is the trained model. One image is 0.28 points; the standard error of an accuracy is about 1.1 points.",
        "Tokens of this model are 48 wide: gates and routing take a far larger share here than in a real transformer.",
    )
    write_table(_ffn_table(result), f"written: {result.acm.path}, {result.dense.path}")


def _model_table(demo: Demo) -> Table:
    """One row for each threshold; the dense model comes last."""
    from rich.table import Table

    table = Table(title=f"Embedded digits model, {demo.images} test images, {demo.runtime}", title_justify="left")
    for column in ("τ", "learners run", "β", "accuracy %", "MFLOPs / image", "time ÷ dense"):
        table.add_column(column, justify="right")
    for row in demo.rows:
        table.add_row(
            f"{row.threshold:g}",
            f"{row.share:.3f}",
            f"{row.budget:.3f}",
            f"{100 * row.accuracy:.1f}",
            f"{row.flops / 1e6:.3f}",
            f"{row.time_ratio:.2f}",
            style="bold" if row.threshold == 0 else None,
        )
    dense = demo.dense.manifest.model_flops(1) / 1e6
    table.add_section()
    table.add_row("dense", "", "", f"{100 * demo.dense_accuracy:.1f}", f"{dense:.3f}", "1.00")
    return table


def _ffn_table(demo: Demo) -> Table:
    """Time of the op alone against the share of learners that run."""
    from rich.table import Table

    table = Table(title="FFN of ViT-B, 197 tokens, random weights", title_justify="left")
    table.add_column("learners run", justify="right", min_width=18)
    table.add_column("time ÷ dense", justify="right", min_width=18)
    for row in demo.ffn:
        table.add_row(f"{row.share:.3f}", f"{row.time_ratio:.2f}")
    return table
