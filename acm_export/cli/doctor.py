"""``acm-export doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.cli.common import progress, verb, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from acm_export.diagnosis.examine import Examination

GOALS = ("export", "onnxruntime", "tensorrt", "jetson")
"""Keys of acm_export.diagnosis.examine.NEEDS."""

_STYLES = {"ok": "green", "missing": "yellow", "wrong": "red"}


@click.command(short_help="Show what this machine can do and what is missing.")
@click.option(
    "--for", "goal", type=click.Choice(GOALS), help="Exit with 1 if this cannot work here. [default: always 0]"
)
@click.option(
    "--plugin",
    "library",
    type=click.Path(path_type=Path),
    metavar="LIB",
    help="Plugin library to check; by default libacm_gated_learners.so in the current folder, else the prebuilt one.",
)
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

    with progress() as shown:
        examination = examine(goal=goal, plugin=library, progress=shown)
    if as_json:
        write_json(examination.to_json())
    else:
        write_table(_finding_table(examination), *_describe_goals(examination))
    examination.check_goal()


def _finding_table(examination: Examination) -> Table:
    """One row for each check."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("fix", overflow="fold")
    for finding in examination.findings:
        state = Text(finding.state, _STYLES[finding.state])
        # Text keeps "[export]" from being taken for markup.
        table.add_row(finding.name, state, Text(finding.found), Text(finding.fix or ""))
    return table


def _describe_goals(examination: Examination) -> Iterator[str]:
    """For each goal, whether it can work here and what is missing."""
    for goal, lacks in examination.lacks.items():
        reasons = ", ".join(f"{finding.name} ({finding.state})" for finding in lacks)
        yield f"{goal}: " + (f"cannot work: {reasons}" if lacks else "can work")
