"""The export of a dense checkpoint says how to make it adaptive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner
from tiny_models import tiny_vit

from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dense_checkpoint_gets_the_command_that_makes_it_adaptive(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit({}), tmp_path / "dense")
    command = ["export", str(tmp_path / "dense"), "-o", str(tmp_path / "m.onnx"), "--no-verify"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0
    assert f"0 ACM layers; to make it adaptive: acm-export acmize {tmp_path / 'dense'}" in shown.stderr
