"""NVIDIA's parser and builder take files with gated FFNs, in every precision, as they take their dense twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gated_models import tiny_decoder, word_ids, write_words
from rtx_builder import build, needs_rtx, parsed_layers

from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

pytestmark = [needs_rtx, pytest.mark.slow]

SHAPES = ["--min-shapes", "input_ids:1x12", "--opt-shapes", "input_ids:2x12", "--max-shapes", "input_ids:4x12"]


def dense_twin() -> nn.Module:
    model = tiny_decoder()
    for name, layer in list(acm_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.dense())
    return model


@pytest.mark.parametrize(("dtype", "opset"), [("fp32", 20), ("fp32", 18), ("fp16", 20), ("bf16", 22)])
def test_a_model_with_gated_ffns_builds(dtype: str, opset: int, tmp_path: Path) -> None:
    export(tiny_decoder(), {"input_ids": word_ids(2)}, tmp_path / "m.onnx", dtype=dtype, opset=opset, verify=False)
    result = build(tmp_path / "m.onnx", tmp_path / "m.rtx", *SHAPES)
    assert [layer["glu"] for layer in result["passport"]["manifest"]["layers"]] == [True, False, True]
    assert parsed_layers(tmp_path / "m.onnx").count("TOPK") == 3


def test_the_dense_twin_builds(tmp_path: Path) -> None:
    export(dense_twin(), {"input_ids": word_ids(2)}, tmp_path / "m.onnx", verify=False)
    build(tmp_path / "m.onnx", tmp_path / "m.rtx", *SHAPES)


def test_a_budget_input_builds(tmp_path: Path) -> None:
    export(tiny_decoder(), {"input_ids": word_ids(2)}, tmp_path / "m.onnx", verify=False)
    data = write_words(tmp_path / "words.npz")
    calibrate(tmp_path / "m.onnx", data, [0.4, 0.7], tmp_path / "b.onnx", budget_input=True)
    build(tmp_path / "b.onnx", tmp_path / "b.rtx", *SHAPES)
