"""What ``export`` and ``verify`` report when a verification fails or is impossible."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from exported_files import names
from tiny_models import acm, tiny_vit

from acm_export.base.errors import OutputError
from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.modules.wrapper import Exportable, SingleLayer
from acm_export.runtimes import runnable
from acm_export.verification.compare import verify_model
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint on disk."""
    save_checkpoint(tiny_vit(), tmp_path / "tiny", source={})
    return tmp_path / "tiny"


@pytest.mark.parametrize("as_json", [False, True])
def test_an_export_that_fails_verification_shows_the_errors(as_json: bool, checkpoint: Path, tmp_path: Path) -> None:
    call = ["export", str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--atol", "1e-30"]
    ran = CliRunner().invoke(main, [*call, "--json"] if as_json else call)
    assert ran.exit_code == 1
    assert "off by" in ran.stderr
    assert names(tmp_path) == ["tiny"]
    if as_json:
        content = json.loads(ran.stdout)
        assert content["output"] is None
        assert not content["verification"]["passed"]
        assert len(content["verification"]["settings"]) == 3
    else:
        assert "max error" in ran.stdout
        assert "τ = 0" in ran.stdout


@pytest.mark.parametrize("value", ["nan", "-1"])
def test_an_invalid_tolerance_is_a_usage_error(value: str, checkpoint: Path, tmp_path: Path) -> None:
    exported = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--atol", value])
    verified = CliRunner().invoke(main, ["verify", "m.onnx", "--checkpoint", str(checkpoint), "--atol", value])
    assert (exported.exit_code, verified.exit_code) == (2, 2)
    assert names(tmp_path) == ["tiny"]


def test_the_report_of_a_failed_verification_comes_with_the_error(tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as failed:
        export(acm(), torch.randn(2, 50, 6), tmp_path / "m.onnx", atol=1e-30)
    assert failed.value.report is not None
    assert str(failed.value.report.failure) in str(failed.value)


def test_a_bf16_export_needs_disk_space_only_beside_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    convert = runnable.convert_to_float32

    def watch(model: Any, folder: Path, scratch: Path) -> None:
        seen.append(scratch)
        convert(model, folder, scratch)

    monkeypatch.setattr(runnable, "convert_to_float32", watch)
    export(acm(), torch.randn(2, 6), tmp_path / "m.onnx", dtype="bf16")
    assert [folder.parents[1] for folder in seen] == [tmp_path]
    assert names(tmp_path) == ["m.onnx"]


def test_a_full_scratch_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    layer, x = acm(), torch.randn(2, 6)
    export(layer, x, tmp_path / "m.onnx", dtype="bf16")
    monkeypatch.setattr(runnable, "convert_to_float32", full)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    model = Exportable(SingleLayer(layer), ["x"], torch.float32)
    with pytest.raises(OutputError, match=str(scratch)) as refused:
        verify_model(tmp_path / "m.onnx", model, {"x": x})
    assert "TMPDIR" in str(refused.value.hint)
