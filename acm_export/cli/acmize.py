"""``acm-export acmize``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acm_export.cli.common import (
    DATA,
    PART,
    PROCESSOR,
    need_export_packages,
    numbers,
    progress,
    verb,
    write_json,
    write_table,
)

if TYPE_CHECKING:
    from acm_export.distillation.plan import AcmizePlan

_PLAN_OPTIONS = ("part", "sites", "learners", "flops_factor", "min_learners", "recipe", "budget", "init")
"""Options that --dry-run uses."""


def _three_numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, float, float]:
    found = numbers(context, parameter, value)
    if len(found) != 3:
        raise click.BadParameter(f"{value!r} has {len(found)} numbers; expected three, one for each phase")
    return found[0], found[1], found[2]


def _three_counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int, int]:
    found = _three_numbers(context, parameter, value)
    if not all(number >= 0 and number.is_integer() for number in found):
        raise click.BadParameter(f"{value!r} must be three whole numbers of at least 0, one for each phase")
    return int(found[0]), int(found[1]), int(found[2])


@click.command(short_help="Turn a pre-trained transformer into an ACM model.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", help=f"Training data: {DATA}.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Checkpoint folder to write.")
@click.option("--eval-data", help="Data for the quality curve, as --data; by default one held-out sample in five.")
@click.option("--processor", type=click.Path(path_type=Path), help=PROCESSOR)
@click.option("--task", metavar="T", help="classification, ctc, distil (no labels), or MODULE:FUNCTION, a loss.")
@click.option("--part", metavar="NAME", help=PART)
@click.option(
    "--sites",
    default="ffn",
    show_default=True,
    metavar="S,...",
    help="Replaced modules: ffn, qkvo, q_proj, or patterns.",
)
@click.option("--learners", type=click.IntRange(1, 64), default=4, show_default=True, help="Learners per layer (N).")
@click.option(
    "--flops-factor",
    type=float,
    default=1.0,
    show_default=True,
    help="FLOPs of all learners ÷ FLOPs of the replaced module.",
)
@click.option(
    "--min-learners",
    type=click.IntRange(0, 64),
    help="Learners that always run. [default: 0 under a residual, else 1]",
)
@click.option(
    "--recipe",
    type=click.Choice(["any-budget", "paper"]),
    default="any-budget",
    show_default=True,
    help="One model for all thresholds, or one for a single --budget, as published.",
)
@click.option("--budget", type=float, metavar="B", help="Target β of --recipe paper.")
@click.option(
    "--init",
    type=click.Choice(["teacher", "random"]),
    help="Initialization of the learners. [default: teacher; random for --recipe paper]",
)
@click.option(
    "--steps",
    callback=_three_counts,
    default="1000,500,2000",
    show_default=True,
    metavar="P1,P2,P3",
    help="Steps for learners, gates and the whole model; 0 skips a phase.",
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Samples per step.")
@click.option(
    "--lr",
    callback=_three_numbers,
    default="1e-3,1e-3,1e-4",
    show_default=True,
    metavar="P1,P2,P3",
    help="Peak learning rates of the three phases.",
)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Seed of all random numbers.")
@click.option(
    "--mixed-precision",
    type=click.Choice(["no", "fp16", "bf16"]),
    default="no",
    show_default=True,
    help="Precision of training on GPUs.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    metavar="STEPS",
    help="Steps between saved states.",
)
@click.option("--restart", is_flag=True, help="Discard the state of an unfinished run in DIR.partial.")
@click.option("--dry-run", is_flag=True, help="Print sites, sizes and FLOPs, and stop.")
@verb
def acmize(
    model: Path,
    data: str | None,
    output: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,  # as click gives it
) -> None:
    """Replace parts of MODEL, a dense checkpoint folder, with ACM layers, and train them in the paper's three phases.

    Run the same command again to resume an interrupted run. For several processes or GPUs, run it under
    `accelerate launch`: `accelerate launch --num_processes 2 --module acm_export acmize ...`. The phases and the
    quality of the results: docs/acmize.md.

    \b
    Examples:
      acm-export acmize vit-base --dry-run
      acm-export acmize vit-base --data photos/ -o acm-vit
      acm-export acmize wav2vec2 --data speech/ --sites ffn,qkvo --steps 2000,1000,5000 -o acm-wav2vec2
      acm-export acmize minilm --data mine:sentences --task distil -o acm-minilm
    """
    if not dry_run and (data is None or output is None):
        raise click.UsageError("give --data and -o, or --dry-run")
    need_export_packages()
    from acm_export.distillation import acmize as api

    if dry_run or data is None or output is None:
        _show_plan(api.plan_acmize(model, **{name: options[name] for name in _PLAN_OPTIONS}), model, as_json)
        return
    from acm_export.report.distillation import describe_result, result_table

    with progress() as bars:
        result = api.acmize(model, data, output, progress=bars, **options)
    if not result.is_main_process:
        return
    if as_json:
        write_json(result.to_json())
    else:
        write_table(result_table(result), *describe_result(result))


def _show_plan(plan: AcmizePlan, model: Path, as_json: bool) -> None:
    from acm_export.report.distillation import describe_plan, example_data, plan_table

    if as_json:
        write_json(plan.to_json())
    else:
        write_table(plan_table(plan), *describe_plan(plan), f"next: {_next_command(model, example_data(plan))}")


def _next_command(model: Path, example: str) -> str:
    """The command that trains as planned: the options of this one, with examples for --data and -o."""
    context = click.get_current_context()
    words = ["acm-export", "acmize", str(model)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and isinstance(parameter, click.Option) and name not in ("data", "output", "dry_run"):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], text]
    output = context.params["output"] or f"acm-{model.resolve().name}"
    return shlex.join([*words, "--data", context.params["data"] or example, "-o", str(output)])
