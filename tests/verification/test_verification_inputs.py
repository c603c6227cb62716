"""Inputs that the model cannot run on are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_families import acm_model, interface

from acm_export.base.errors import UsageError
from acm_export.checkpoints import save_checkpoint
from acm_export.exporter import example_inputs, export
from acm_export.modules.wrapper import Exportable
from acm_export.verification.compare import verify_model
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny BERT and the folder of its checkpoint and its file."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inputs")
    model = acm_model("bert").eval()
    save_checkpoint(model, folder / "acm", source={})
    export(folder / "acm", output=folder / "m.onnx", verify=False)
    return model, folder


def check(bert: tuple[Any, Path], inputs: dict[str, torch.Tensor]) -> None:
    model, folder = bert
    fields = interface(model).outputs
    verify_model(folder / "m.onnx", Exportable(model, list(inputs), torch.float32, fields), inputs)


@pytest.mark.parametrize("ids", [10**6, -1])
def test_token_ids_out_of_range_name_the_input_and_the_size_of_its_embedding(bert: tuple[Any, Path], ids: int) -> None:
    model, _ = bert
    inputs = example_inputs(interface(model))
    inputs["input_ids"][0, 0] = ids
    with pytest.raises(UsageError, match=rf"input_ids has ids from .*its embedding has {model.config.vocab_size} rows"):
        check(bert, inputs)


def test_inputs_that_are_too_long_are_named(bert: tuple[Any, Path]) -> None:
    model, _ = bert
    length = model.config.max_position_embeddings + 1
    inputs = {name: torch.ones(1, length, dtype=torch.long) for name in example_inputs(interface(model))}
    with pytest.raises(UsageError, match="the PyTorch model does not run on the data") as refused:
        check(bert, inputs)
    assert f"input_ids [1, {length}]" in str(refused.value.hint)


def test_data_that_is_not_an_archive_is_described(bert: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = bert
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"x\.npy is a NumPy array \(\.npy\)") as refused:
        verify(folder / "m.onnx", folder / "acm", data=tmp_path / "x.npy")
    assert "numpy.savez" in str(refused.value.hint)
    with pytest.raises(UsageError, match="there is no file"):
        verify(folder / "m.onnx", folder / "acm", data=tmp_path / "none.npz")
