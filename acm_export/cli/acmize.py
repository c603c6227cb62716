"""``acm-export acmize``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.base.files import check_apart
from acm_export.cli.common import need_export_packages, numbers, progress, verb, write_json, write_table


def _three(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, float, float]:
    found = numbers(context, parameter, value)
    if len(found) != 3:
        raise click.BadParameter(f"{value!r} are not three numbers, one for each phase")
    return found[0], found[1], found[2]


def _three_whole(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int, int]:
    found = _three(context, parameter, value)
    if not all(number >= 0 and number.is_integer() for number in found):
        raise click.BadParameter(f"{value!r} are not three whole numbers, one for each phase")
    return int(found[0]), int(found[1]), int(found[2])


@click.command(short_help="Turn a pre-trained transformer into an ACM model.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", help="An .npz file, a folder of images, sounds or a dataset, or MODULE:FUNCTION.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Checkpoint folder to make.")
@click.option("--eval-data", help="As --data, for the curve; by default one sample of five is held out.")
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option("--task", metavar="T", help="classification, ctc, distil (no labels), or MODULE:FUNCTION, a loss.")
@click.option("--sites", default="ffn", show_default=True, metavar="S,...", help="ffn, qkvo, q_proj, or patterns.")
@click.option("--learners", type=click.IntRange(1, 64), default=4, show_default=True, help="N.")
@click.option("--flops-factor", type=float, default=1.0, show_default=True, help="All learners ÷ what they replace.")
@click.option("--min-learners", type=click.IntRange(0, 64), help="Always run; by default 0 under a residual, else 1.")
@click.option(
    "--recipe", type=click.Choice(["any-budget", "paper"]), default="any-budget", show_default=True,
    help="One model for all thresholds, or as published: for one budget.",
)  # fmt: skip
@click.option("--budget", type=float, metavar="B", help="β that --recipe paper aims at.")
@click.option("--init", type=click.Choice(["teacher", "random"]), help="Of learners; paper's default is random.")
@click.option(
    "--steps", callback=_three_whole, default="1000,500,2000", show_default=True, metavar="P1,P2,P3",
    help="Of learners, gates and the whole model; 0 leaves a phase out.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Samples of a step.")
@click.option("--lr", callback=_three, default="1e-3,1e-3,1e-4", show_default=True, help="Of the three phases.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of all randomness.")
@click.option(
    "--mixed-precision", type=click.Choice(["no", "fp16", "bf16"]), default="no", show_default=True, help="On GPUs."
)
@click.option("--checkpoint-every", type=click.IntRange(1), default=200, show_default=True, metavar="STEPS")
@click.option("--restart", is_flag=True, help="Forget what a killed run left in DIR.partial.")
@click.option("--dry-run", is_flag=True, help="Print sites, sizes and FLOPs, and stop.")
@verb
def acmize(
    model: Path,
    data: str | None,
    output: Path | None,
    eval_data: str | None,
    processor: Path | None,
    task: str | None,
    sites: str,
    learners: int,
    flops_factor: float,
    min_learners: int | None,
    recipe: str,
    budget: float | None,
    init: str | None,
    steps: tuple[int, int, int],
    batch: int,
    lr: tuple[float, float, float],
    seed: int,
    mixed_precision: str,
    checkpoint_every: int,
    restart: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Replace parts of MODEL, a dense checkpoint folder, by ACM layers, and train them by the paper's three phases.

    A run that was killed goes on when the same command is given again. Several processes and GPUs: the same command
    under `accelerate launch`, as `accelerate launch --num_processes 2 --module acm_export.cli acmize ...`. What the
    phases do, and what the result is good for: docs/acmize.md.

    \b
    Examples:
      acm-export acmize vit-base --dry-run
      acm-export acmize vit-base --data photos/ -o acm-vit
      acm-export acmize wav2vec2 --data speech/ --sites ffn,qkvo --steps 2000,1000,5000 -o acm-wav2vec2
      acm-export acmize minilm --data mine:sentences --task distil -o acm-minilm
    """
    if not dry_run and (data is None or output is None):
        raise click.UsageError("--data and -o are needed, or --dry-run")
    if output is not None:
        paths = (Path(text) for text in (data, eval_data) if text is not None)
        check_apart((model, processor, *paths), {"-o": output})
        if output.is_symlink() or not output.name:
            output = output.resolve()
    need_export_packages()
    from acm_export.base.optional import require
    from acm_export.checkpoints import load_checkpoint
    from acm_export.distillation.plan import make_plan
    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.report.distillation import (
        describe_plan,
        describe_result,
        plan_json,
        plan_table,
        result_json,
        result_table,
    )  # fmt: skip

    settings = AcmizeSettings(
        sites, learners, flops_factor, min_learners, recipe, init, budget, steps, batch, lr, task, seed,
        checkpoint_every, mixed_precision,
    )  # fmt: skip
    teacher = load_checkpoint(model)
    if dry_run or data is None or output is None:
        plan = make_plan(teacher.model, teacher.family, settings)
        if as_json:
            write_json(plan_json(plan))
        else:
            write_table(plan_table(plan), *describe_plan(plan))
        return
    require("accelerate")
    from acm_export.distillation.acmize import acmize as run

    with progress() as shown:
        result = run(teacher, data, eval_data, settings, output, shown, processor=processor, restart=restart)
    if not result.is_main_process:
        return
    if as_json:
        write_json(result_json(result))
        return
    write_table(result_table(result), *describe_result(result))
