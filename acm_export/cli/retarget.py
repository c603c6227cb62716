"""``acm-export retarget``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import verb, write_json
from acm_export.cli.export import TARGETS


@click.command(short_help="Rewrite an exported file for another runtime.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(TARGETS), required=True, help="Runtime that the new file is for.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="ONNX file to write."
)
@click.option("--with-counts", is_flag=True, help="Add the learner counts of each layer as outputs counts/<layer>.")
@verb
def retarget(model: Path, target: str, output: Path, with_counts: bool, as_json: bool) -> None:
    """Rewrite MODEL, a file for any target, for another target. It keeps its calibration, budget, and weights.

    Nothing is exported or calibrated again, and PyTorch is not needed. A file for tensorrt-8 has opset 17 and stays at
    it when it is rewritten for another target.

    \b
    Examples:
      acm-export retarget calibrated.onnx --target tensorrt-8 -o calibrated-8.onnx
      acm-export retarget calibrated-8.onnx --target portable -o on-cpu.onnx
    """
    from acm_export.onnx_file.retarget import retarget as retarget_file
    from acm_export.onnx_file.targets import TARGETS as RUNTIMES

    manifest = retarget_file(model, output, target=target, with_counts=with_counts)
    if as_json:
        write_json({"output": str(output), "target": manifest.target, "opset": manifest.opset})
        return
    runtime = RUNTIMES[manifest.target].partition(": ")[2]
    click.echo(f"{output}: target {manifest.target}, opset {manifest.opset}: runs on {runtime}")
