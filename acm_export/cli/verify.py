"""``acm-export verify``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import need_export_packages, verb, write_json, write_table


@click.command(short_help="Compare an ONNX file with its checkpoint.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder it was exported from.")
@click.option(
    "--data",
    help="An .npz file, a folder of images, sounds or a dataset, or MODULE:FUNCTION; random inputs by default.",
)
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Samples to run, or of --data at most.",
)
@click.option("--atol", type=click.FloatRange(0), help="Largest absolute error that is accepted.")
@verb
def verify(
    model: Path,
    checkpoint: Path,
    data: str | None,
    processor: Path | None,
    samples: int,
    atol: float | None,
    as_json: bool,
) -> None:
    """Run MODEL in ONNX Runtime and its checkpoint in PyTorch, at the trained budget and at two others.

    Reports numeric error with both sides running the same learners, and apart from it the tokens that the two would
    route differently, with their distance from the threshold. Exit code 1 where the tolerance does not hold.

    \b
    Example:
      acm-export verify acm-vit-b.onnx --checkpoint acm-vit-b --data images.npz
    """
    need_export_packages()
    from acm_export.checkpoints import load_checkpoint
    from acm_export.report.verification import verification_table
    from acm_export.verification.file import verify_file
    from acm_export.verification.report import check_atol

    check_atol(atol)
    report = verify_file(model, load_checkpoint(checkpoint), data=data, processor=processor, samples=samples, atol=atol)
    if as_json:
        write_json(report.to_json())
    else:
        write_table(verification_table(report), *report.notes)
        click.echo("the file computes what the checkpoint computes" if report.passed else "", nl=report.passed)
    if not report.passed:
        click.echo(f"{click.style('error:', fg='red')} {model} does not hold: {report.failure}", err=True)
        raise SystemExit(1)
