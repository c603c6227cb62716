"""Errors for checkpoints that do not exist, and the commands that they suggest."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from acm_export.base.errors import UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.cli import main


def test_a_hub_id_gets_the_command_that_downloads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        load_checkpoint("google/vit-base-patch16-224")
    command = "hf download google/vit-base-patch16-224 --local-dir vit-base-patch16-224"
    assert str(refused.value.hint).endswith(command)
    shown = CliRunner().invoke(main, ["acmize", "google/vit-base-patch16-224", "--dry-run"])
    assert shown.exit_code == 2
    assert command in shown.stderr


@pytest.mark.parametrize("name", ["models/vit", "vit", "../vit", "./vit", "a/b/c"])
def test_a_mistyped_path_is_not_taken_for_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"there is no folder {Path(name)}") as refused:
        load_checkpoint(name)
    assert "hf download" not in str(refused.value.hint)


def test_a_missing_file_of_the_authors_code_is_a_usage_error(tmp_path: Path) -> None:
    for name in ("missing.pth", "missing.safetensors"):
        shown = CliRunner().invoke(main, ["convert", str(tmp_path / name), "-o", str(tmp_path / "out")])
        assert shown.exit_code == 2
        assert name in shown.stderr
