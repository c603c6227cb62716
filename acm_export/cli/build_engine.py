"""``acm-export build-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from acm_export.cli.common import verb, write_json

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(name="build-engine", short_help="Build a TensorRT engine on this machine.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_FILE, required=True, metavar="PLAN", help="Engine to write.")
@click.option("--min-shapes", metavar="SHAPES", help="Smallest shapes, as in pixel_values:1x3x224x224.")
@click.option("--opt-shapes", metavar="SHAPES", help="Shapes to be fastest at; by default those of the export.")
@click.option("--max-shapes", metavar="SHAPES", help="Largest shapes; by default a batch of 8.")
@click.option("--tf32", is_flag=True, help="Let float32 products be rounded to TF32.")
@click.option("--timing-cache", type=_FILE, metavar="FILE", help="Is read where it is there, and written.")
@click.option(
    "--plugin", type=_FILE, metavar="LIB", help="Plugin library; by default it is compiled beside the engine."
)
@click.option("--dry-run", is_flag=True, help="Say what would be built; needs no TensorRT.")
@verb
def build_engine(
    model: Path,
    output: Path,
    min_shapes: str | None,
    opt_shapes: str | None,
    max_shapes: str | None,
    tf32: bool,
    timing_cache: Path | None,
    plugin: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from MODEL, a file for any target.

    What the engine was built for is written beside it, into PLAN.json. Not yet run with a real builder on a GPU.

    \b
    Examples:
      acm-export build-engine calibrated.onnx -o calibrated.plan
      acm-export build-engine m.onnx -o m.plan --max-shapes pixel_values:32x3x224x224 --timing-cache t.cache
      acm-export build-engine m.onnx -o m.plan --dry-run
    """
    from dataclasses import asdict

    from acm_export.engine.engine import build_engine as build
    from acm_export.engine.engine import find_tensorrt, plan, version_of
    from acm_export.engine.profiles import parse_shapes
    from acm_export.engine.trtexec_line import trtexec_line
    from acm_export.errors import ExportError, MissingDependencyError
    from acm_export.files import check_writable

    given = (("--min-shapes", min_shapes), ("--opt-shapes", opt_shapes), ("--max-shapes", max_shapes))
    low, best, high = (parse_shapes(text, option) if text else {} for option, text in given)
    check_writable(output)
    try:
        tensorrt = find_tensorrt()
    except MissingDependencyError:
        if not dry_run:
            raise
        tensorrt = None
    versions = [version_of(tensorrt)] if tensorrt else [(8, 5), (10, 3), (11, 0)]
    results = []
    for version in versions:
        try:
            planned = plan(model, output, version, (low, best, high), tf32=tf32, timing_cache=timing_cache)
        except ExportError:  # no TensorRT 8 for bf16
            if len(versions) == 1:
                raise
            continue
        target, file = planned.prepared.manifest.target, model
        if planned.prepared.was != target:
            file = model.with_name(f"{model.stem}-{target}{model.suffix}")
        line = trtexec_line(
            version, file, output, plugin or Path("libacm_gated_learners.so"), planned.settings.profiles,
            half=planned.settings.half, tf32=tf32, timing_cache=timing_cache,
        )  # fmt: skip
        results.append({
            "tensorrt": ".".join(map(str, version)), "target": target, "converted": planned.prepared.was != target,
            "budget_input": planned.prepared.manifest.budget_input, "trtexec": line,
            "profiles": {name: asdict(profile) for name, profile in planned.settings.profiles.items()},
        })  # fmt: skip
    content: dict[str, Any] = {"output": str(output), "dry_run": dry_run, "plans": results, "passport": None}
    if not dry_run:
        passport = build(planned, tensorrt, plugin, tell=lambda line: click.echo(line, err=True))
        content["passport"] = asdict(passport)
    if as_json:
        write_json(content)
        return
    _say(content, model)


def _say(content: dict[str, Any], model: Path) -> None:
    click.echo(f"{content['output']}: {'would be built' if content['dry_run'] else 'built'} from {model}")
    for result in content["plans"]:
        note = f", which {model} is not: export it with --target {result['target']}" if result["converted"] else ""
        click.echo(f"TensorRT {result['tensorrt']} parses files for {result['target']}\n  {result['trtexec']}")
        if note:
            click.echo(f"  for trtexec the file must be for {result['target']}{note}")
