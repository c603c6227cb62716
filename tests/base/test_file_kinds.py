"""Files are recognised by their content, not by their names."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from acm_export.base.file_kinds import NPZ, ONNX, file_kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_onnx(path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    onnx.save(helper.make_model(graph), path)


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


def write_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


def write_safetensors(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def as_json(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content))


def with_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "description", "hint"),
    [
        (with_bytes(b""), "an empty file", "None"),
        (with_bytes(b"some words\n"), "a text file", "None"),
        (with_bytes("τ".encode() * 5000), "a text file", "None"),
        (with_bytes(b"<!DOCTYPE html>\n<html></html>"), "an HTML page", "browser"),
        (with_bytes(b"ftrt" + bytes(100)), "a TensorRT engine", "acm-export latency"),
        (with_bytes(b"\x7fELF" + bytes(100)), "a shared library", "None"),
        (with_bytes(b"\x80\x02\x8a\nl\xfc"), "a pickled PyTorch checkpoint", "acm-export convert"),
        (
            as_json({"model": {}, "runtime": {}, "runs": [], "fit": {}}),
            "a result of acm-export latency",
            "latency --compare",
        ),
        (as_json({"schema": 1, "manifest": {}, "engine": {}, "model": {}}), "the record that build-engine", "engine"),
        (as_json({"for": None, "checks": [], "goals": {}}), "a result of acm-export doctor", "None"),
        (as_json({"model_type": "vit"}), "the config of a checkpoint", "acm-export export"),
        (as_json([1, 2]), "a JSON document", "None"),
        (with_bytes(b'{"cut": '), "a text file", "None"),
        (lambda path: torch.save({"w": torch.zeros(1)}, path), "a PyTorch checkpoint", "acm-export convert"),
        (write_npy, "a NumPy array (.npy)", "numpy.savez"),
        (write_zip, "a zip archive", "unpack"),
        (write_safetensors, "a safetensors file", "None"),
    ],
)
def test_a_file_is_described_by_its_content(
    write: Callable[[Path], object], description: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    write(path)
    kind = file_kind(path)
    assert kind is not None
    assert kind.description.startswith(description)
    assert hint in str(kind.hint)


def test_onnx_files_and_npz_archives_are_recognised(tmp_path: Path) -> None:
    write_onnx(tmp_path / "a")
    write_npz(tmp_path / "b")
    assert (file_kind(tmp_path / "a"), file_kind(tmp_path / "b")) == (ONNX, NPZ)


@pytest.mark.parametrize("content", [bytes(100), b"\xff" * 3000, b"\x93" * 8])
def test_unknown_bytes_have_no_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    assert file_kind(tmp_path / "m") is None


def test_a_checkpoint_folder_comes_with_the_command_that_exports_it(tmp_path: Path) -> None:
    folder = tmp_path / "my-vit"
    folder.mkdir()
    assert str(file_kind(folder)) == str(file_kind(tmp_path))
    (folder / "config.json").write_text('{"model_type": "vit"}')
    write_safetensors(folder / "model.safetensors")
    for path in (folder, folder / "model.safetensors", folder / "config.json"):
        kind = file_kind(path)
        assert kind is not None
        assert f"acm-export export {folder} -o my-vit.onnx" in str(kind.hint)
    kind = file_kind(folder)
    assert kind is not None
    assert kind.description == "a checkpoint folder"
