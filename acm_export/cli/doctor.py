"""``acm-export doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import progress, verb, write_json, write_table

GOALS = ("export", "onnxruntime", "tensorrt", "jetson")
"""Keys of acm_export.diagnosis.examine.NEEDS."""


@click.command(short_help="Show what this machine can do and what is missing.")
@click.option(
    "--for", "goal", type=click.Choice(GOALS), help="Exit with 1 if this cannot work here. [default: always 0]"
)
@click.option(
    "--plugin", "library", type=click.Path(path_type=Path), metavar="LIB",
    help="Plugin library to check; by default libacm_gated_learners.so in the current folder.",
)  # fmt: skip
@verb
def doctor(goal: str | None, library: Path | None, as_json: bool) -> None:
    """Check packages, runtimes, GPUs, the plugin library and disks, and show how to fix what is missing or wrong.

    Packages are imported and libraries loaded in separate processes, so that a broken one is a row of the table.
    Nothing is changed and no GPU memory is taken. It takes as long as importing the packages, usually a few seconds.

    \b
    Examples:
      acm-export doctor
      acm-export doctor --for tensorrt --plugin build/libacm_gated_learners.so
    """
    from acm_export.diagnosis.examine import doctor as examine
    from acm_export.diagnosis.tables import describe_goals, finding_table

    with progress() as shown:
        examination = examine(goal=goal, plugin=library, progress=shown)
    if as_json:
        write_json(examination.to_json())
    else:
        write_table(finding_table(examination), *describe_goals(examination))
    examination.check_goal()
