"""Files of a part of a checkpoint: the manifest names it, and ``latency`` and ``verify`` load it in PyTorch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from click.testing import CliRunner, Result
from tiny_architectures import tiny_model
from tiny_families import install_sites, sites_of
from tiny_models import randomize

from acm_export.base.errors import ModelFileError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.cli import main
from acm_export.onnx_file.manifest import KEY, read_manifest
from acm_export.surgery import prepare_model, spec_for

if TYPE_CHECKING:
    from pathlib import Path

PARTS = [("whisper", "encoder"), ("t5", "encoder"), ("t5", "decoder"), ("clip", "vision")]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def source_part(path: Path) -> str | None:
    return read_manifest(onnx.load(path), path).source.part


def acm_folder(name: str, folder: Path) -> None:
    """Folders ``dense`` and ``acm`` of a whole model."""
    tiny_model(name).save_pretrained(folder / "dense")
    model = tiny_model(name)
    prepare_model(model)
    install_sites(model, {site: spec_for(site, 3) for site in sites_of(model)})
    randomize(model)
    save_checkpoint(model, folder / "acm")


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_part_of_a_file_is_timed_and_verified_without_naming_it_again(name: str, part: str, tmp_path: Path) -> None:
    acm_folder(name, tmp_path)
    exported = run("export", tmp_path / "acm", "--part", part, "-o", tmp_path / "m.onnx", "--no-verify")
    assert exported.exit_code == 0, exported.stderr
    assert source_part(tmp_path / "m.onnx") == part
    pytorch = ("--runtime", "pytorch", "--checkpoint", tmp_path / "acm", "--baseline", tmp_path / "dense")
    timed = run("latency", tmp_path / "m.onnx", *pytorch, "--runs", 1, "--json")
    assert timed.exit_code == 0, timed.stderr
    assert json.loads(timed.stdout)["baseline"]["runs"]
    verified = run("verify", tmp_path / "m.onnx", "--checkpoint", tmp_path / "acm")
    assert verified.exit_code == 0, verified.stderr
    assert f"part {part}" in run("inspect", tmp_path / "m.onnx").stdout


def test_a_baseline_of_the_whole_model_is_compared_with_a_file_of_its_encoder(tmp_path: Path) -> None:
    acm_folder("t5", tmp_path)
    save_checkpoint(load_checkpoint(tmp_path / "acm", part="encoder").model, tmp_path / "encoder")
    exported = run("export", tmp_path / "encoder", "-o", tmp_path / "m.onnx", "--no-verify")
    assert exported.exit_code == 0, exported.stderr
    assert source_part(tmp_path / "m.onnx") is None
    pytorch = ("--runtime", "pytorch", "--checkpoint", tmp_path / "encoder", "--baseline", tmp_path / "dense")
    whole = run("latency", tmp_path / "m.onnx", *pytorch, "--runs", 1)
    assert whole.exit_code == 2
    assert "--part" in whole.stderr
    part = run("latency", tmp_path / "m.onnx", *pytorch, "--part", "encoder", "--runs", 1)
    assert part.exit_code == 0, part.stderr


def test_the_default_part_of_a_dense_folder_is_recorded(tmp_path: Path) -> None:
    tiny_model("whisper").save_pretrained(tmp_path / "dense")
    exported = run("export", tmp_path / "dense", "-o", tmp_path / "m.onnx", "--no-verify")
    assert exported.exit_code == 0, exported.stderr
    assert source_part(tmp_path / "m.onnx") == "encoder"


def test_a_part_without_a_baseline_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    for options in ((), ("--baseline", tmp_path / "d.onnx"), ("--runtime", "pytorch")):
        refused = run("latency", tmp_path / "m.onnx", "--part", "encoder", *options)
        assert refused.exit_code == 2
        assert "--part names the part of a --baseline folder" in refused.stderr


def test_files_without_the_field_are_read_and_other_values_refused(tmp_path: Path) -> None:
    tiny_model("vit").save_pretrained(tmp_path / "dense")
    path = tmp_path / "m.onnx"
    assert run("export", tmp_path / "dense", "-o", path, "--no-verify").exit_code == 0
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    content = json.loads(entry.value)
    assert content["source"].pop("part") is None
    entry.value = json.dumps(content)
    assert read_manifest(model, path).source.part is None
    content["source"]["part"] = 3
    entry.value = json.dumps(content)
    with pytest.raises(ModelFileError, match=r"source\.part is 3; it must be text or null"):
        read_manifest(model, path)
