"""NVIDIA's builder takes a model of usual size of every family, dense and with ACM layers, with dynamic shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import transformers
from rtx_builder import build, export_model, needs_rtx, profile_options
from tiny_families import install_sites, sites_of
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from acm_export.surgery import spec_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_rtx, pytest.mark.slow]

_WHISPER_BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
MAKE = {
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig()),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig()),
    "bert": lambda: transformers.BertModel(transformers.BertConfig()),
    "wav2vec2": lambda: transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config()),
    "whisper": lambda: WhisperEncoder(transformers.WhisperConfig(**_WHISPER_BASE)),
}
"""Models of 6 or 12 layers, 512 or 768 wide, with random weights."""

BATCHES = {"vit": (1, 8, 16), "deit": (1, 8, 16), "whisper": (1, 1, 2)}
"""Batches of at most 3,840 tokens, the most that a portable body sorts in NVIDIA's builder."""


@pytest.mark.parametrize("kind", ["dense", "acm"])
@pytest.mark.parametrize("name", MAKE)
def test_a_model_of_usual_size_builds(tmp_path: Path, name: str, kind: str) -> None:
    model: Any = MAKE[name]().eval()
    if kind == "acm":
        install_sites(model, {site: spec_for(site, 4) for site in sites_of(model)})
    file = export_model(model, tmp_path / "m.onnx", "fp16")
    options = profile_options(model, file, BATCHES.get(name, (1, 2, 4)))
    result = build(file, tmp_path / "m.rtx", *options)
    assert (tmp_path / "m.rtx").stat().st_size > file.stat().st_size // 2
    assert (len(result["passport"]["manifest"]["layers"]) > 0) == (kind == "acm")
