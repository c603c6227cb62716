"""``acm-export demo``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import need_export_packages, verb, write_json, write_table


@click.command(short_help="The whole line on the embedded model and real images.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("acm-demo"), show_default=True,
    help="Folder for the exported files.",
)  # fmt: skip
@verb
def demo(output: Path, as_json: bool) -> None:
    """Export the embedded ACM model and the dense model it came from, verify both, and run real images.

    One file serves every row of the table: only its thresholds change.

    \b
    Example:
      acm-export demo -o acm-demo
    """
    need_export_packages()
    from acm_export.base.optional import require

    require("onnxruntime", "sklearn")
    from acm_export.demo.run import run_demo
    from acm_export.demo.tables import demo_table, ffn_table
    from acm_export.report.verification import verification_table

    result = run_demo(output)
    if as_json:
        write_json(result.to_json())
        return
    if result.acm.report:
        write_table(verification_table(result.acm.report), *result.acm.report.notes)
    write_table(
        demo_table(result),
        "τ = 0 is the trained model. One image is 0.28 points; the standard error of an accuracy is about 1.1 points.",
        "Tokens of this model are 48 wide: gates and routing weigh far more here than in a real transformer.",
    )
    write_table(
        ffn_table(result),
        f"written: {result.acm.path}, {result.dense.path}",
    )
