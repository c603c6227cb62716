"""Sources of an export: a checkpoint folder, a checkpoint, or a module with example inputs."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from click.testing import CliRunner
from tiny_models import tiny_vit
from torch import nn

from acm_export.base.errors import OutputError, UsageError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.onnx_file.inspection import inspect
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_folder_and_its_checkpoint_give_the_same_file(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit(), tmp_path / "vit", source={})
    first = export(str(tmp_path / "vit"), output=str(tmp_path / "a.onnx"), verify=False)
    second = export(load_checkpoint(tmp_path / "vit"), output=tmp_path / "b.onnx", verify=False)
    assert onnx.load(first.path) == onnx.load(second.path)
    assert first.manifest.source.name == "vit"
    content = first.to_json()
    assert (content["output"], content["bytes"]) == (str(tmp_path / "a.onnx"), (tmp_path / "a.onnx").stat().st_size)
    assert (content["data"], content["verification"]) == (None, None)


def test_missing_and_wrong_arguments_are_named_before_any_work(tmp_path: Path) -> None:
    layer, x = ACMLayer(ACMSpec(6, 3, 20)), torch.randn(2, 6)
    with pytest.raises(UsageError, match="needs example inputs"):
        export(layer, output=tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no output path"):
        export(layer, x)
    with pytest.raises(UsageError, match=r"-o is m\.pt; it must end in \.onnx"):
        export(layer, x, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="there is no folder"):
        export(tmp_path / "none", output=tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_text("old")
    (tmp_path / "m.onnx").chmod(0o444)
    with pytest.raises(OutputError, match="is read-only"):
        export(layer, x, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_every_verb_says_that_an_exported_dense_checkpoint_is_dense(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit({}), tmp_path / "vit", source={})
    path = tmp_path / "m.onnx"
    ran = CliRunner().invoke(main, ["export", str(tmp_path / "vit"), "-o", str(path)])
    assert ran.exit_code == 0, ran.stderr
    assert f"0 ACM layers; to make it adaptive: acm-export acmize {tmp_path / 'vit'}" in ran.stderr
    assert inspect(path).manifest.layers == ()
    shown = CliRunner().invoke(main, ["inspect", str(path)])
    assert "0 ACM layers: a dense model" in shown.stdout
    report = verify(path, tmp_path / "vit")
    assert report.passed
    assert "0 ACM layers" in report.notes[-1]


def test_existing_external_data_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.onnx_file.staged_file.EXTERNAL_ABOVE", 0)
    module, x = nn.Sequential(ACMLayer(ACMSpec(6, 3, 20))), torch.randn(2, 6)
    first = export(module, x, tmp_path / "m.onnx", verify=False)
    assert first.data_path is not None
    first.data_path.chmod(0o440)
    before = first.data_path.stat()
    export(module, x, tmp_path / "m.onnx", verify=False, target="tensorrt")
    after = first.data_path.stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (before.st_ino, 0o440)


def test_an_export_through_a_link_keeps_the_data_beside_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acm_export.onnx_file.staged_file.EXTERNAL_ABOVE", 0)
    for name in ("links", "store"):
        (tmp_path / name).mkdir()
    link = tmp_path / "links" / "m.onnx"
    link.symlink_to(tmp_path / "store" / "m.onnx")
    result = export(nn.Sequential(ACMLayer(ACMSpec(6, 3, 20))), torch.randn(2, 6), link, verify=False)
    assert link.is_symlink()
    assert (tmp_path / "store" / "m.onnx").is_file()
    assert inspect(link).data_files == [result.data_path.name]  # type: ignore[union-attr]
