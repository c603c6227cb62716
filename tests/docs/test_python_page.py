"""docs/python.md and docs/cli.md: the code runs, and tables and output match docstrings and commands."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import acm_export
from acm_export.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
CLI_PAGE = PAGE.with_name("cli.md")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
HEAD = "| function | verb | does |\n| --- | --- | --- |\n"


def table() -> str:
    """One row for each function, in the order of the API."""
    rows = []
    for name in acm_export._WHERE:
        value = getattr(acm_export, name)
        if inspect.isfunction(value):
            verb = name.replace("_", "-")
            line = " ".join((value.__doc__ or "").strip().partition("\n\n")[0].split())
            line = re.sub(r":\w+:`([^`]*)`", r"`\1`", line).replace("``", "`")
            rows.append(f"| `{name}` | {f'`{verb}`' if verb in main.commands else ''} | {line} |\n")
    return HEAD + "".join(rows)


@pytest.mark.skipif(
    not acm_export._WHERE["latency"].endswith("timing.latency"), reason="needs the functions as the page calls them"
)
@pytest.mark.parametrize("code", CODE, ids=lambda code: code.splitlines()[-1])
def test_the_code_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:acm_export", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "verified: True" in done.stdout


def test_the_table_shows_the_docstrings() -> None:
    page = PAGE.read_text()
    found = re.search(re.escape(HEAD) + r"(?:\|.*\n)*", page)
    assert found is not None
    if "UPDATE_MESSAGES" in os.environ:
        PAGE.write_text(page.replace(found[0], table()))
    else:
        assert found[0] == table(), "update it: UPDATE_MESSAGES=1 python -m pytest tests/docs/test_python_page.py"


def test_the_shown_output_is_what_the_command_prints() -> None:
    shown = re.findall(r"^```\n\$ acm-export (.*?)\n(.*?)^```", CLI_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    for command, output in shown:
        assert CliRunner().invoke(main, command.split()).stdout == output
