"""NVIDIA's parser and builder take the files of every family, in every precision, with dynamic shapes."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
from rtx_builder import build, export_model, needs_rtx, parsed_layers, profile_options
from tiny_families import MAKE, acm_model, dense_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_rtx, pytest.mark.slow]

KINDS = {"dense": dense_model, "acm": partial(acm_model, projections=3)}
"""A dense model, and its twin with ACM layers of two signatures."""


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKE)
def test_a_family_builds(tmp_path: Path, name: str, kind: str, dtype: str) -> None:
    model = KINDS[kind](name)
    file = export_model(model, tmp_path / "m.onnx", dtype)
    options = profile_options(model, file)
    result = build(file, tmp_path / "m.rtx", *options)
    assert (tmp_path / "m.rtx").stat().st_size > 0
    [plan] = result["plans"]
    assert (plan["runtime"], plan["target"]) == ("tensorrt-rtx", "portable")
    for shapes in plan["profiles"].values():
        assert shapes["minimum"][0] == 1
        assert shapes["maximum"][0] == 4
    layers = result["passport"]["manifest"]["layers"]
    assert len({layer["num_learners"] for layer in layers}) == (2 if kind == "acm" else 0)


@pytest.mark.parametrize(("dtype", "opset"), [("bf16", 20), ("fp32", 18), ("fp16", 22)])
def test_other_precisions_and_opsets_build(tmp_path: Path, dtype: str, opset: int) -> None:
    model = acm_model("bert")
    file = export_model(model, tmp_path / "m.onnx", dtype, opset=opset)
    build(file, tmp_path / "m.rtx", *profile_options(model, file))


@pytest.mark.parametrize("name", ["vit", "bert", "wav2vec2 ctc, XLS-R", "whisper"])
def test_a_portable_file_parses_as_it_is(tmp_path: Path, name: str) -> None:
    model = acm_model(name)
    file = export_model(model, tmp_path / "m.onnx", "fp32")
    layers = parsed_layers(file)
    assert layers.count("TOPK") == len(model_layers(file))


def model_layers(file: Path) -> list[str]:
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return [layer["name"] for layer in json.loads(metadata["acm"])["layers"]]
