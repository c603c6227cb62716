"""docs/families.md: its code runs, and the wheel contains the pages that hints name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import acm_export
from acm_export.base.documentation import page

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.splitlines()[-1])
def test_the_code_runs(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "('batch', 400)" in done.stdout
    assert "verified: True" in done.stdout


def test_the_package_contains_the_pages() -> None:
    assert CODE
    assert Path(page("families.md")) == Path(acm_export.__file__).parent / "docs" / "families.md"
    assert Path(page("families.md")).read_text() == PAGE.read_text()
    assert page("no_such_page.md") == "docs/no_such_page.md"
