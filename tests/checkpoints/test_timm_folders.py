"""Folders of timm, in a process of their own: beside PyTorch's CPU build, torchvision must not be seen by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny_models import tiny_vit

from acm_export.base.errors import MissingDependencyError
from acm_export.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
PACKAGES = Path(os.environ.get("ACM_TIMM", ROOT / ".timm"))


@pytest.mark.skipif(
    not (PACKAGES / "timm").is_dir(), reason="needs timm and torchvision in .timm (make test) or ACM_TIMM"
)
def test_folders_of_timm() -> None:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(PACKAGES))))
    cases = ROOT / "tests" / "support" / "timm_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.skipif("timm" in sys.modules, reason="timm is installed")
def test_without_timm_the_error_has_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    save_file(tiny_vit({}).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 5}))
    with pytest.raises(MissingDependencyError, match="timm is not installed") as refused:
        load_checkpoint(tmp_path)
    assert refused.value.hint == "pip install timm"
