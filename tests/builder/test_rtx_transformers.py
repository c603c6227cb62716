"""NVIDIA's parser and builder take every kind of transformer, dense and with ACM layers, with dynamic shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from rtx_builder import build_files, export_model, needs_rtx, profile_of
from tiny_architectures import NAMES, tiny_model
from tiny_families import install_sites, sites_of
from tiny_models import randomize

from acm_export.onnx_file.manifest import read_manifest
from acm_export.surgery import prepare_model, spec_for, take_part

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_rtx, pytest.mark.slow]

CASES = [
    *((name, "whole", "fp16") for name in NAMES),
    *((name, "whole", "fp32") for name in ("bart", "gemma2", "llama", "swin", "t5", "wavlm large")),
    *((name, "decoder", "fp16") for name in ("bart", "t5", "whisper")),
]
"""Model, part and precision."""


def model_of(name: str, part: str, *, acm: bool) -> Any:
    """A dense model or its part, or the same with an ACM layer at every FFN."""
    model = tiny_model(name)
    prepare_model(model)
    if acm:
        install_sites(model, {site: spec_for(site, 4) for site in sites_of(model)})
        randomize(model)
    return take_part(model, part)


@pytest.mark.parametrize(("name", "part", "dtype"), CASES)
def test_a_dense_transformer_and_its_acm_model_build(name: str, part: str, dtype: str, tmp_path: Path) -> None:
    profiles = {}
    for kind in ("dense", "acm"):
        model = model_of(name, part, acm=kind == "acm")
        file = export_model(model, tmp_path / f"{kind}.onnx", dtype)
        profiles[file] = profile_of(model, file)
        assert (len(read_manifest(onnx.load(file), file).layers) > 0) == (kind == "acm")
    assert build_files(profiles) == dict.fromkeys(profiles, "")
    assert all(file.with_suffix(".rtx").stat().st_size > 0 for file in profiles)


def test_an_operator_that_the_parser_does_not_know_is_named(tmp_path: Path) -> None:
    model = model_of("vit", "whole", acm=True)
    file = export_model(model, tmp_path / "m.onnx", "fp32")
    content = onnx.load(file)
    node = next(node for node in content.graph.node if node.op_type == "Softmax")
    node.op_type = "Hardmax2"
    onnx.save(content, file)
    assert "Hardmax2" in build_files({file: profile_of(model, file)})[file]
