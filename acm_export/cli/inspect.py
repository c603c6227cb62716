"""``acm-export inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import verb, write_json, write_table


@click.command(short_help="Show what an exported file contains and what runs it.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--adopt",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Give MODEL the manifest of FILE: the ONNX file as it was before the other tool changed it, or the output of "
    "acm-export inspect --json for it.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="ONNX file to write with --adopt."
)
@verb
def inspect(model: Path, adopt: Path | None, output: Path | None, as_json: bool) -> None:
    """Show the layers, thresholds, FLOPs and target of MODEL.

    Tools that rewrite ONNX files may drop the manifest, merge equal thresholds or fold the budget input. --adopt checks
    that MODEL still has the layers and weights of FILE, and writes it with its manifest, thresholds and budget input.

    \b
    Examples:
      acm-export inspect acm-vit-b.onnx
      acm-export inspect sanitized.onnx --adopt acm-vit-b.onnx -o fixed.onnx
    """
    from acm_export.onnx_file.inspection import inspect as inspect_file
    from acm_export.report.inspection import describe, layer_table

    summary = inspect_file(model, adopt=adopt, output=output)
    if as_json:
        write_json(summary.to_json())
        return
    for line in describe(summary):
        click.echo(line)
    if summary.manifest.layers:
        write_table(layer_table(summary))
