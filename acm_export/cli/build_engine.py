"""``acm-export build-engine``."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acm_export.cli.common import verb, write_json

if TYPE_CHECKING:
    from acm_export.engine.engine import EnginePlan

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
_LIBRARY = Path("libacm_gated_learners.so")
_VERSIONS = ((8, 5), (10, 3), (11, 0))
"""That a dry run without TensorRT shows, one for each generation of its interface."""


@click.command(name="build-engine", short_help="Build a TensorRT engine on this machine.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_FILE, required=True, metavar="PLAN", help="Engine to write.")
@click.option("--min-shapes", metavar="SHAPES", help="Smallest shapes, as in pixel_values:1x3x224x224.")
@click.option("--opt-shapes", metavar="SHAPES", help="Shapes to be fastest at; by default those of the export.")
@click.option("--max-shapes", metavar="SHAPES", help="Largest shapes; by default a batch of 8.")
@click.option("--no-counts", is_flag=True, help="Leave learner counts out of the outputs; they cost one copy a layer.")
@click.option(
    "--threshold-inputs", is_flag=True, help="Take thresholds as inputs, in place of a budget: for experiments."
)
@click.option("--tf32", is_flag=True, help="Let float32 products be rounded to TF32.")
@click.option("--timing-cache", type=_FILE, metavar="FILE", help="Is read where it is there, and written.")
@click.option(
    "--plugin", type=_FILE, metavar="LIB", help="Plugin library; by default it is compiled beside the engine."
)
@click.option("--tensorrt-root", type=_FOLDER, help="Where TensorRT is, to compile the plugin; else it is looked for.")
@click.option("--cuda-root", type=_FOLDER, help="Where CUDA is, to compile the plugin; else it is looked for.")
@click.option(
    "--tactic-sources", metavar="S,...", help="Change the builder's default, as in -CUDNN,+CUBLAS (trtexec has it too)."
)
@click.option("--data", help="Data to compare on, as for calibrate; random inputs by default.")
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option("--no-check", is_flag=True, help="Do not compare the engine with the portable file.")
@click.option("--save-onnx", type=_FILE, metavar="FILE", help="Write the file that TensorRT parses, for trtexec.")
@click.option("--dry-run", is_flag=True, help="Say what would be built; needs no TensorRT.")
@verb
def build_engine(
    model: Path,
    output: Path,
    min_shapes: str | None,
    opt_shapes: str | None,
    max_shapes: str | None,
    no_counts: bool,
    threshold_inputs: bool,
    tf32: bool,
    timing_cache: Path | None,
    plugin: Path | None,
    tensorrt_root: Path | None,
    cuda_root: Path | None,
    tactic_sources: str | None,
    data: str | None,
    processor: Path | None,
    no_check: bool,
    save_onnx: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from MODEL, a file for any target, and compare it with the portable file.

    What the engine was built for, and what the comparison found, is written beside it, into PLAN.json. An engine that
    computes something else is not written. Not yet run with a real builder on a GPU (docs/engines.md).

    \b
    Examples:
      acm-export build-engine calibrated.onnx -o calibrated.plan
      acm-export build-engine m.onnx -o m.plan --max-shapes pixel_values:32x3x224x224 --timing-cache t.cache
      acm-export build-engine m.onnx -o m.plan --dry-run
    """
    from acm_export.base.errors import ExportError, MissingDependencyError
    from acm_export.data.open_data import open_data
    from acm_export.engine.check import EngineCheck
    from acm_export.engine.engine import PluginSource
    from acm_export.engine.engine import build_engine as build
    from acm_export.engine.engine import plan as plan_for
    from acm_export.engine.machine import find_tensorrt, version_of
    from acm_export.engine.prepare import Ends, save_prepared
    from acm_export.engine.profiles import parse_shapes
    from acm_export.engine.settings import parse_tactic_sources

    given = (("--min-shapes", min_shapes), ("--opt-shapes", opt_shapes), ("--max-shapes", max_shapes))
    low, best, high = (parse_shapes(text, option) if text else {} for option, text in given)
    if data is not None and no_check:
        raise click.UsageError("--data is what to compare on, and --no-check leaves the comparison out")
    _check_outputs((model, plugin, None if data is None else Path(data)), output, save_onnx, timing_cache)
    source = None
    if data is not None:
        source = partial(open_data, data, model_folder=model.absolute().parent, processor=processor)
    try:
        tensorrt = find_tensorrt()
    except MissingDependencyError:
        if not dry_run:
            raise
        tensorrt = None
    ends = Ends(counts=not no_counts, thresholds=threshold_inputs)
    sources = () if tactic_sources is None else parse_tactic_sources(tactic_sources)
    plans: list[tuple[tuple[int, int], EnginePlan]] = []
    for version in [version_of(tensorrt)] if tensorrt else _VERSIONS:
        with suppress(*() if tensorrt else (ExportError,)):  # there is no TensorRT 8 for bf16
            planned = plan_for(
                model, output, version, (low, best, high),
                tf32=tf32, timing_cache=timing_cache, tactic_sources=sources, ends=ends,
            )  # fmt: skip
            plans.append((version, planned))
    saved = plans[-1][1].prepared
    if save_onnx is not None:
        save_prepared(saved, save_onnx)
    described = [
        _describe(v, p, plugin or _LIBRARY, save_onnx if p.prepared.manifest.target == saved.manifest.target else None)
        for v, p in plans
    ]
    content: dict[str, Any] = {"output": str(output), "dry_run": dry_run, "plans": described, "passport": None}
    if not dry_run:
        planned = plans[0][1]
        check = None if no_check else partial(EngineCheck, planned.prepared, planned.settings.profiles, source)
        passport = build(
            planned, tensorrt, PluginSource(plugin, tensorrt_root, cuda_root), check, log=partial(click.echo, err=True)
        )
        content["passport"] = passport.to_json()
    if as_json:
        write_json(content)
    else:
        _say(content, model)


def _check_outputs(read: tuple[Path | None, ...], output: Path, save_onnx: Path | None, cache: Path | None) -> None:
    from acm_export.base.files import check_apart, check_writable
    from acm_export.engine.passport import files_of, passport_path

    inputs = [part for path in read if path is not None for part in files_of(path)]
    written = {"-o": output, "the file about the engine": passport_path(output), "--save-onnx": save_onnx}
    check_apart(inputs, written | {"--timing-cache": cache})
    check_writable(output)
    check_writable(passport_path(output))
    for option, path in (("--save-onnx", save_onnx), ("--timing-cache", cache)):
        if path is not None:
            check_writable(path, option)


def _describe(version: tuple[int, int], planned: EnginePlan, plugin: Path, saved: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from acm_export.engine.trtexec_line import trtexec_line

    prepared, settings = planned.prepared, planned.settings
    target, file = prepared.manifest.target, saved or prepared.source
    converted = prepared.changed and saved is None
    if converted:
        file = file.with_name(f"{file.stem}-{target}{file.suffix}")
    library = plugin if prepared.manifest.layers else None
    line = trtexec_line(
        version, file, planned.output, library, settings.profiles,
        half=settings.half, tf32=settings.tf32, timing_cache=settings.timing_cache,
        tactic_sources=settings.tactic_sources,
    )  # fmt: skip
    return {
        "tensorrt": ".".join(map(str, version)), "target": target, "converted": converted,
        "inputs": prepared.inputs, "outputs": [value.name for value in prepared.model.graph.output],
        "budget_input": prepared.manifest.budget_input, "trtexec": line,
        "profiles": {name: asdict(profile) for name, profile in settings.profiles.items()},
    }  # fmt: skip


def _how_to_make(result: dict[str, Any], last: dict[str, Any]) -> str:
    """Where trtexec gets the file that the printed line names."""
    if result["target"] == last["target"]:
        return "for trtexec: --save-onnx writes the file that TensorRT parses"
    return f"for trtexec the file must be for {result['target']}: export it with --target {result['target']}"


def _say(content: dict[str, Any], model: Path) -> None:
    click.echo(f"{content['output']}: {'would be built' if content['dry_run'] else 'built'} from {model}")
    for result in content["plans"]:
        click.echo(f"TensorRT {result['tensorrt']} parses files for {result['target']}\n  {result['trtexec']}")
        if result["converted"]:
            click.echo(f"  {_how_to_make(result, content['plans'][-1])}")
    if content["passport"] is None:
        return
    found = content["passport"]["checked"]
    if found is None:
        click.echo("not compared with the portable file")
        return
    moved = found["routed_differently"]
    error = "not measured" if found["error"] is None else f"{found['error']:.2e} of the largest value"
    routed = "" if moved is None else f"; {moved} of {found['tokens']} tokens routed differently"
    click.echo(
        f"compared with the portable file in {found['samples']} runs of samples at {found['settings']} settings: "
        f"error {error}{routed}"
    )
