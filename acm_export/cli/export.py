"""``acm-export export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.cli.common import need_export_packages, verb, write_json, write_table
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from acm_export.exporter import ExportResult
    from acm_export.verification.report import VerificationReport

# Not taken from the modules that define them: importing those would take seconds for every --help.
_DTYPES = ("fp32", "fp16", "bf16")
_TARGETS = ("portable", "tensorrt", "tensorrt-8", "ort-tensorrt")


@click.command(short_help="Export a checkpoint to a verified ONNX file.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="ONNX file.")
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    default="fp32",
    show_default=True,
    help="Of weights; gates stay fp32.",
)
@click.option(
    "--target",
    type=click.Choice(_TARGETS),
    default="portable",
    show_default=True,
    help="What will run the file.",
)
@click.option("--opset", type=click.IntRange(17, 22), help="ONNX operator set. [default: 20; 17 for tensorrt-8]")
@click.option("--with-counts", is_flag=True, help="Add the learner counts of each layer as outputs counts/<layer>.")
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
    atol: float | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT, a folder with config.json and model.safetensors, with a dynamic batch and length.

    Inputs and outputs are float32 in every file. Unless --no-verify is given the file is compared with the
    checkpoint at three budgets, and is not written where they disagree.

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
    need_export_packages()
    from acm_export.checkpoints import load_checkpoint
    from acm_export.exporter import check_options, export_checkpoint
    from acm_export.verification.report import check_atol

    check_options(dtype, target, opset)
    check_atol(atol)
    loaded = load_checkpoint(checkpoint)
    try:
        result = export_checkpoint(
            loaded, output, dtype=dtype, target=target, opset=opset, with_counts=with_counts,
            verify=not no_verify, atol=atol,
        )  # fmt: skip
    except VerificationError as error:
        if error.report:
            _show_failed(error.report, as_json)
        raise
    if as_json:
        write_json(
            {"output": str(result.path), "data": str(result.data_path) if result.data_path else None,
             "bytes": _size(result), "manifest": result.manifest.to_json(),
             "verification": result.report.to_json() if result.report else None}
        )  # fmt: skip
        return
    if result.report:
        _show(result.report)
    layers, megabytes = len(result.manifest.layers), _size(result) / 1e6
    click.echo(f"{result.path}: {layers} ACM layers, {dtype}, target {target}, {megabytes:.1f} MB")


def _show_failed(report: VerificationReport, as_json: bool) -> None:
    if as_json:
        write_json({"output": None, "verification": report.to_json()})
    else:
        _show(report)


def _show(report: VerificationReport) -> None:
    from acm_export.report.verification import verification_table

    write_table(verification_table(report), *report.notes)


def _size(result: ExportResult) -> int:
    return sum(path.stat().st_size for path in (result.path, result.data_path) if path)
