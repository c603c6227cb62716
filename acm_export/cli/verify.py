"""``acm-export verify``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import DATA, PROCESSOR, need_export_packages, verb, write_json, write_table


@click.command(short_help="Compare an ONNX file with its checkpoint.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder that the file was exported from."
)
@click.option("--data", help=f"Samples to run: {DATA}. [default: random inputs]")
@click.option("--processor", type=click.Path(path_type=Path), help=PROCESSOR)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Number of samples to run; fewer if --data has fewer.",
)
@click.option("--part", metavar="NAME", help="Part of the checkpoint. [default: the part that MODEL contains]")
@click.option("--atol", type=click.FloatRange(0), help="Largest accepted absolute error.")
@verb
def verify(
    model: Path,
    checkpoint: Path,
    data: str | None,
    processor: Path | None,
    samples: int,
    part: str | None,
    atol: float | None,
    as_json: bool,
) -> None:
    """Run MODEL in ONNX Runtime and its checkpoint in PyTorch, at the trained budget and at two others.

    Reports the numeric error while both sides run the same learners, and separately the tokens that the two would
    route differently, with their distance from the threshold. Exit code 1 if an error exceeds its tolerance.

    An int8 file passes if its outputs have a cosine similarity of at least 0.99 with those of the float32 model, and if
    the integers of each int8 layer are exactly those of the operator's definition.

    \b
    Example:
      acm-export verify acm-vit-b.onnx --checkpoint acm-vit-b --data images.npz
    """
    need_export_packages()
    from acm_export.report.verification import verification_table
    from acm_export.verification.file import verify as verify_file
    from acm_export.verification.report import VerificationError

    report = verify_file(model, checkpoint, data=data, processor=processor, samples=samples, atol=atol, part=part)
    if as_json:
        write_json(report.to_json())
    else:
        write_table(verification_table(report), *report.notes)
    if not report.passed:
        raise VerificationError(
            f"{model} does not compute what the checkpoint computes: {report.failure}", report.hint, report
        )
    if not as_json:
        click.echo("the file computes what the checkpoint computes")
