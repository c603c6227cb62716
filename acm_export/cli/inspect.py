"""``acm-export inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import verb, write_json, write_table


@click.command(short_help="Show what an exported file contains and what runs it.")
@click.argument("model", type=click.Path(path_type=Path))
@verb
def inspect(model: Path, as_json: bool) -> None:
    """Show the layers, thresholds, FLOPs and target of MODEL.

    \b
    Example:
      acm-export inspect acm-vit-b.onnx
    """
    from acm_export.onnx_file.inspection import inspect as inspect_file
    from acm_export.report.inspection import describe, layer_table

    summary = inspect_file(model)
    if as_json:
        write_json(summary.to_json())
        return
    for line in describe(summary):
        click.echo(line)
    if summary.manifest.layers:
        write_table(layer_table(summary))
