"""docs/modules.md: its code runs. timm's part runs in tests/support/timm_cases.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "modules.md"


def test_the_hand_written_transformer_becomes_an_exported_file(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "timm" not in block]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "verified: True" in done.stdout
    assert len(re.findall(r"^τ = .*: β [01]\.\d\d, loss ", done.stdout, re.MULTILINE)) == 6
    assert (tmp_path / "calibrated.onnx").is_file()
