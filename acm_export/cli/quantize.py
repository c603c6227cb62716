"""``acm-export quantize``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import DATA, PROCESSOR, progress, verb, write_json, write_table


@click.command(short_help="Write an int8 version of a file.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", help=f"Samples that set the scales: {DATA}. Required unless activations are dynamic.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option(
    "--activations",
    type=click.Choice(["static", "dynamic"]),
    default="static",
    show_default=True,
    help="Fixed scales from data, or scales of each token at run time (ONNX Runtime only).",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["7", "8"]),
    default="8",
    show_default=True,
    help="7 for x86 CPUs without VNNI, whose int8 products saturate.",
)
@click.option("--only", type=click.Choice(["learners"]), help="Leave dense linear layers in float.")
@click.option("--keep", multiple=True, metavar="PATTERN", help="Leave matching layers in float; may be repeated.")
@click.option("--embeddings", is_flag=True, help="Store embedding tables in int8 too, one scale for each row.")
@click.option(
    "--migration",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="SmoothQuant's alpha: how much of the range of activations moves into the weights; 0 for none.",
)
@click.option("--processor", type=click.Path(path_type=Path), help=PROCESSOR)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Samples that set the scales, spread evenly over the data.",
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Largest batch size.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device to run MODEL on."
)
@verb
def quantize(
    model: Path,
    data: str | None,
    output: Path,
    activations: str,
    weight_bits: str,
    only: str | None,
    keep: tuple[str, ...],
    embeddings: bool,
    migration: float,
    processor: Path | None,
    samples: int,
    batch: int,
    device: str,
    as_json: bool,
) -> None:
    """Write an int8 version of MODEL: learners and dense linear layers in int8, everything else in float.

    Works before and after `calibrate`, and for dense files from `export`. A calibrated file keeps its thresholds, and
    the budgets of its table are measured again in int8. One in five samples sets no scale; on those the int8 file is
    compared with MODEL.

    \b
    Examples:
      acm-export quantize calibrated.onnx --data images.npz -o int8.onnx
      acm-export quantize minilm.onnx --data sentences.npz --embeddings -o minilm-int8.onnx
      acm-export quantize acm-vit-b.onnx --activations dynamic -o int8.onnx
      acm-export quantize m.onnx --data images.npz --keep '*.layers.0.*' --weight-bits 7 -o int8.onnx
    """
    from acm_export.base.optional import require

    if data is not None:
        require("onnxruntime")
    from acm_export.quantization.quantize import quantize as run
    from acm_export.report.quantization import describe_quantization, quantization_table

    with progress() as shown:
        result = run(
            model,
            output,
            data=data,
            processor=processor,
            samples=samples,
            batch=batch,
            activations=activations,
            weight_bits=int(weight_bits),
            learners_only=only == "learners",
            keep=keep,
            embeddings=embeddings,
            migration=migration,
            device=device,
            progress=shown,
        )
    if as_json:
        write_json(result.to_json())
        return
    write_table(quantization_table(result), *describe_quantization(result))
