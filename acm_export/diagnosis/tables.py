"""What the doctor found, as a table and a line for each goal."""

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
        table.add_row(finding.name, state, Text(finding.found), Text(finding.fix or ""))  # Text: [export] is no markup
    return table


def describe_goals(examination: Examination) -> Iterator[str]:
    """What can be done here, and what the rest waits for."""
    for goal, lacks in examination.lacks.items():
        reasons = ", ".join(f"{finding.name} ({finding.state})" for finding in lacks)
        yield f"{goal}: " + (f"cannot work: {reasons}" if lacks else "can work")
