"""``acm-export export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.cli.common import PART, need_export_packages, verb, warn, write_json, write_table
from acm_export.op.precision import PRECISIONS

if TYPE_CHECKING:
    from acm_export.verification.report import VerificationReport

# Not taken from onnx_file.targets, whose import takes too long for --help.
TARGETS = ("portable", "tensorrt", "tensorrt-8", "ort-tensorrt")


@click.command(short_help="Export a checkpoint to a verified ONNX file.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@click.option(
    "--dtype",
    type=click.Choice(tuple(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="Precision of the weights; gates stay fp32.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="portable",
    show_default=True,
    help="Runtime that the file is for.",
)
@click.option("--opset", type=click.IntRange(17, 22), help="ONNX operator set. [default: 20; 17 for tensorrt-8]")
@click.option("--with-counts", is_flag=True, help="Add the learner counts of each layer as outputs counts/<layer>.")
@click.option("--part", metavar="NAME", help=PART)
@click.option("--atol", type=click.FloatRange(0), help="Largest absolute error that verification accepts.")
@click.option("--no-verify", is_flag=True, help="Do not compare the file with the checkpoint.")
@verb
def export(
    checkpoint: Path,
    output: Path,
    dtype: str,
    target: str,
    opset: int | None,
    with_counts: bool,
    part: str | None,
    atol: float | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, a folder with config.json and model.safetensors, with dynamic batch size and length.

    Inputs and outputs are float32 in every file. Unless --no-verify is given, the file is compared with the
    checkpoint at three budgets, and is not written if they disagree.

    \b
    Targets:
      portable      op and function body: ONNX Runtime on any machine
      tensorrt      op alone: TensorRT's parser and trtexec
      tensorrt-8    op alone, in opset 17, fp32 or fp16: TensorRT 8.5 and 8.6
      ort-tensorrt  op in the domain trt.plugins: ONNX Runtime's TensorRT execution provider

    \b
    Example:
      acm-export export acm-vit-b -o acm-vit-b.onnx --dtype fp16
    """
    if no_verify and atol is not None:
        raise click.UsageError("--atol has no effect with --no-verify; leave one of them out")
    need_export_packages()
    from acm_export.exporter import export as export_model
    from acm_export.verification.report import VerificationError

    try:
        result = export_model(
            checkpoint,
            output=output,
            dtype=dtype,
            target=target,
            opset=opset,
            with_counts=with_counts,
            part=part,
            verify=not no_verify,
            atol=atol,
        )
    except VerificationError as error:
        if error.report and as_json:
            write_json({"output": None, "verification": error.report.to_json()})
        elif error.report:
            _show(error.report)
        raise
    layers = len(result.manifest.layers)
    if not layers:
        warn(f"0 ACM layers; to make it adaptive: acm-export acmize {checkpoint} --data D -o DIR")
    if as_json:
        write_json(result.to_json())
        return
    if result.report:
        _show(result.report)
    click.echo(f"{result.path}: {layers} ACM layers, {dtype}, target {target}, {result.size / 1e6:.1f} MB")
    if result.processor_path is not None and result.manifest.processor is not None:
        click.echo(f"{result.processor_path}: {', '.join(result.manifest.processor.files)}")


def _show(report: VerificationReport) -> None:
    from acm_export.report.verification import verification_table

    write_table(verification_table(report), *report.notes)
