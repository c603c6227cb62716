"""``acm-export convert``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import need_export_packages, verb, write_json


def _min_learners(_context: click.Context, _parameter: click.Parameter, value: str | None) -> dict[str, int]:
    pairs = {}
    for item in (value or "").split(","):
        name, separator, count = item.partition("=")
        if not item:
            continue
        if not separator or not name or not count.isdigit():
            raise click.BadParameter(f"{item!r} is not NAME=COUNT, as in q_proj=1,k_proj=1")
        pairs[name] = int(count)
    return pairs


@click.command(short_help="Read a checkpoint of the ACM authors' code.")
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option("--num-heads", type=int, help="Attention heads; needed unless the file records them.")
@click.option("--num-learners", type=int, help="Learners per layer (N); by default inferred from the weights.")
@click.option(
    "--min-learners",
    callback=_min_learners,
    metavar="NAME=K,...",
    help="Learners that always run, by a part of a layer's name, as in q_proj=1; by default inferred from the gates.",
)
@verb
def convert(
    reference: Path,
    output: Path,
    num_heads: int | None,
    num_learners: int | None,
    min_learners: dict[str, int],
    as_json: bool,
) -> None:
    """Turn REFERENCE, a .pth file of the ACM authors' code, into a Hugging Face checkpoint folder.

    Nothing that the file names is imported or run. REFERENCE can also be a .safetensors file of its model_state.

    \b
    Example:
      acm-export convert acm_vit_b.pth --num-heads 12 -o acm-vit-b
    """
    need_export_packages()
    from acm_export.checkpoints import convert as api

    result = api(reference, output, num_heads=num_heads, num_learners=num_learners, min_learners=min_learners)
    if as_json:
        write_json(result.to_json())
        return
    kind = f"{result.num_layers} ACM layers" if result.num_layers else "a dense model, 0 ACM layers"
    click.echo(f"{result.output}: {kind}")
    for line in result.inferred:
        click.echo(f"  inferred: {line}")
