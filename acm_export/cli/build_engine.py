"""``acm-export build-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acm_export.cli.common import DATA, PROCESSOR, progress, verb, write_json

if TYPE_CHECKING:
    from acm_export.engine.engine import EngineResult
    from acm_export.engine.passport import Passport
    from acm_export.engine.plan import EnginePlan

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command(name="build-engine", short_help="Build a TensorRT engine on this machine.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=_FILE, required=True, metavar="PLAN", help="Engine to write.")
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    default="tensorrt",
    show_default=True,
    help="What builds the engine; tensorrt-rtx needs no GPU, but runs portable bodies instead of the plugin.",
)
@click.option("--min-shapes", metavar="SHAPES", help="Smallest input shapes, as in pixel_values:1x3x224x224.")
@click.option("--opt-shapes", metavar="SHAPES", help="Shapes to optimize for; by default those of the export.")
@click.option("--max-shapes", metavar="SHAPES", help="Largest input shapes; by default a batch of 8.")
@click.option("--no-counts", is_flag=True, help="Do not output learner counts, which cost one copy per layer.")
@click.option(
    "--threshold-inputs", is_flag=True, help="Take thresholds as inputs instead of a budget, for experiments."
)
@click.option("--tf32", is_flag=True, help="Allow TF32 for float32 products.")
@click.option("--timing-cache", type=_FILE, metavar="FILE", help="TensorRT timing cache to read and write.")
@click.option(
    "--plugin", type=_FILE, metavar="LIB", help="Plugin library; by default the prebuilt one, else a compiled one."
)
@click.option(
    "--tensorrt-root", type=_FOLDER, help="TensorRT folder to compile the plugin with; by default the usual places."
)
@click.option("--cuda-root", type=_FOLDER, help="CUDA folder to compile the plugin with; by default the usual places.")
@click.option("--tactic-sources", metavar="S,...", help="Changes to the default tactic sources, as in -CUDNN,+CUBLAS.")
@click.option("--data", help=f"Samples for the comparison: {DATA}. [default: random inputs]")
@click.option("--processor", type=click.Path(path_type=Path), help=PROCESSOR)
@click.option("--no-check", is_flag=True, help="Do not compare the engine with the portable file.")
@click.option("--save-onnx", type=_FILE, metavar="FILE", help="Write the model that TensorRT parses, for trtexec.")
@click.option("--dry-run", is_flag=True, help="Show what would be built; TensorRT need not be installed.")
@verb
def build_engine(model: Path, output: Path, no_counts: bool, no_check: bool, as_json: bool, **options: Any) -> None:
    """Build a TensorRT engine from MODEL, an ONNX file for any target, and compare it with the portable file.

    PLAN.json, written next to the engine, says what it was built from, for which GPU and TensorRT, and how it compared.
    An engine that fails the comparison is not written. With --runtime tensorrt-rtx it is not compared. No engine of
    either runtime has run on a GPU yet (docs/engines.md).

    \b
    Examples:
      acm-export build-engine calibrated.onnx -o calibrated.plan
      acm-export build-engine m.onnx -o m.plan --max-shapes pixel_values:32x3x224x224 --timing-cache t.cache
      acm-export build-engine m.onnx -o m.plan --dry-run
      acm-export build-engine m.onnx -o m.rtx --runtime tensorrt-rtx
    """
    from acm_export.engine.engine import build_engine as build

    with progress() as shown:
        result = build(model, output, counts=not no_counts, check=not no_check, progress=shown, **options)
    if as_json:
        write_json(result.to_json())
    else:
        _print(result)


def _print(result: EngineResult) -> None:
    click.echo(f"{result.output}: {'built' if result.passport else 'would be built'} from {result.model}")
    for plan in result.plans:
        click.echo(f"{plan.release} takes files for the target {plan.target}{_int8(plan)}")
        if plan.trtexec is None:
            continue
        if plan.retarget_command is not None:
            click.echo(f"  {plan.retarget_command}")
        elif plan.converted:
            where = "" if plan.target == result.plans[-1].target else f" on a machine with {plan.release}"
            click.echo(f"  for trtexec: --save-onnx FILE{where} writes the file that TensorRT parses")
        click.echo(f"  {plan.trtexec}")
    if result.passport is not None:
        click.echo(_describe(result.passport))


def _int8(plan: EnginePlan) -> str:
    """What runs in int8, if anything."""
    manifest = plan.prepared.manifest
    if manifest.quantization is None:
        return ""
    layers = sum(layer.activations is not None for layer in manifest.layers)
    return f"; int8: {layers} ACM layers in the plugin, {len(manifest.quantization.linears)} linear layers as Q/DQ"


def _describe(passport: Passport) -> str:
    found = passport.comparison
    if found is None:
        rtx = passport.platform.runtime == "tensorrt-rtx"
        return "not compared with the portable file" + (": acm-export does not run TensorRT-RTX" if rtx else "")
    error = "not measured" if found.error is None else f"{found.error:.2e} of the largest value"
    moved = found.routed_differently
    routed = "" if moved is None else f"; {moved} of {found.tokens} tokens routed differently"
    return (
        f"compared with the portable file on {found.samples} sample runs at {found.settings} settings: "
        f"error {error}{routed}"
    )
