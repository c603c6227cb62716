"""The findings as a table, and one line for each goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.diagnosis.examine import Examination

_STYLES = {"ok": "green", "missing": "yellow", "wrong": "red"}


def finding_table(examination: Examination) -> Table:
    """One row for each check."""
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


def describe_goals(examination: Examination) -> Iterator[str]:
    """For each goal, whether it can work here and what is missing."""
    for goal, lacks in examination.lacks.items():
        reasons = ", ".join(f"{finding.name} ({finding.state})" for finding in lacks)
        yield f"{goal}: " + (f"cannot work: {reasons}" if lacks else "can work")
