"""Errors for files and folders that are not ONNX say what they are and which command takes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

from acm_export.cli import main
from acm_export.demo.digits import ACM

if TYPE_CHECKING:
    from pathlib import Path

VERBS = {"inspect": (), "set-budget": ("--trained",), "verify": ("--checkpoint", ACM)}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_file_is_a_usage_error(verb: str, tmp_path: Path) -> None:
    result = run(verb, tmp_path / "m.onnx", *VERBS[verb])
    assert result.exit_code == 2
    assert f"there is no file {tmp_path / 'm.onnx'}" in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_other_kinds_of_file_are_described(verb: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps({"model": {}, "runtime": {}, "runs": []}))
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "m.plan").write_bytes(b"ftrt" + bytes(100))
    for path, words, hint in (
        (tmp_path / "cpu.json", "is a result of acm-export latency, not an ONNX file", "latency --compare"),
        (tmp_path / "x.npy", "is a NumPy array (.npy), not an ONNX file", "--data"),
        (tmp_path / "m.plan", "is a TensorRT engine, not an ONNX file", "acm-export latency"),
        (tmp_path, "is a folder, not an ONNX file", ""),
        (ACM, "is a checkpoint folder, not an ONNX file", f"acm-export export {ACM} -o {ACM.name}.onnx"),
    ):
        result = run(verb, path, *VERBS[verb])
        assert result.exit_code == 1
        assert f"{path} {words}" in result.stderr
        assert hint in result.stderr
        assert "unexpected" not in result.stderr


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("none", 2, "there is no folder"),
        ("r.json", 1, "is a JSON document, not a checkpoint folder"),
        ("folder", 1, "has no config.json"),
    ],
)
def test_anything_but_a_checkpoint_folder_is_described(name: str, code: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    result = run("export", tmp_path / name, "-o", tmp_path / "m.onnx")
    assert result.exit_code == code
    assert words in result.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_an_export_to_another_suffix_is_refused(tmp_path: Path) -> None:
    result = run("export", ACM, "-o", tmp_path / "m.plan")
    assert result.exit_code == 2
    assert "-o is m.plan; it must end in .onnx" in result.stderr
    assert "acm-export build-engine" in result.stderr
