"""Weights in ``pytorch_model.bin`` that would take more memory than their size, or that are not plain tensors."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints.pickled import read_pickled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "one value repeated": (lambda: torch.zeros(1).expand(10**9, 1000), "share storages"),
    "many names of one storage": (lambda: torch.zeros(1000), "share storages"),
    "no storage": (lambda: torch.empty(10**6, 10**6, device="meta"), "are not dense: w"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "are not dense: w"),
    "not a tensor": (lambda: {"w": 3}, "other values than tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_are_not_plain_tensors_are_refused(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    value = make()
    names = [f"w{index}" for index in range(9)] if name.startswith("many") else ["w"]
    torch.save(dict.fromkeys(names, value), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=said):
        read_pickled(tmp_path / "pytorch_model.bin")


def test_tied_weights_are_read(tmp_path: Path) -> None:
    embedding = torch.randn(5, 3)
    torch.save({"embedding": embedding, "head": embedding}, tmp_path / "pytorch_model.bin")
    assert all(torch.equal(value, embedding) for value in read_pickled(tmp_path / "pytorch_model.bin").values())


def test_compressed_files_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "plain.bin")
    with (
        zipfile.ZipFile(tmp_path / "plain.bin") as plain,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_pickled(tmp_path / "pytorch_model.bin")
