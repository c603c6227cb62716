"""``acm-export set-budget``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import verb, write_json


@click.command(name="set-budget", short_help="Change how many of its learners a file runs.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("budget", type=click.FloatRange(0, 1), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. [default: MODEL itself]",
)
@click.option(
    "--threshold",
    type=float,
    help="τ of every gated learner; 0 is as trained, larger is cheaper, inf is allowed.",
)
@click.option("--max-learners", type=click.IntRange(0), help="Upper bound on the learners of a token.")
@click.option("--trained", is_flag=True, help="Return to τ = 0 without a bound.")
@verb
def set_budget(
    model: Path,
    budget: float | None,
    output: Path | None,
    threshold: float | None,
    max_learners: int | None,
    trained: bool,
    as_json: bool,
) -> None:
    """Rewrite the thresholds of MODEL, in place unless -o is given. Settings that are not given keep their value.

    Weights outside the file are not read. With -o in another folder, the data file there is a hard link to this one
    if the file system supports it, and otherwise a copy; a data file that another tool wrote is always copied. BUDGET,
    the share of the learner FLOPs, needs a calibrated file; in a portable file with a budget input, it becomes the
    default.

    \b
    Examples:
      acm-export set-budget calibrated.onnx 0.6
      acm-export set-budget acm-vit-b.onnx --threshold 1.5 -o cheaper.onnx
      acm-export set-budget acm-vit-b.onnx --max-learners 2
      acm-export set-budget acm-vit-b.onnx --trained
    """
    from acm_export.onnx_file.set_budget import set_budget as set_file_budget
    from acm_export.report.inspection import describe_setting

    manifest = set_file_budget(
        model, budget, output=output, threshold=threshold, max_learners=max_learners, trained=trained
    )
    setting = manifest.setting
    if as_json:
        write_json({"output": str(output or model), "setting": manifest.to_json()["setting"]})
        return
    click.echo(f"{output or model}: {describe_setting(setting)} in {len(manifest.layers)} ACM layers")
