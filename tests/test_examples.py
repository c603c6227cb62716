"""Every example runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_the_example_runs(example: Path, tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, example, tmp_path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip()


def test_there_are_examples() -> None:
    assert EXAMPLES
