"""The pairs of linear maps that look like an FFN without running the model."""

from __future__ import annotations

import pytest
from tiny_transformers import tiny_transformer
from torch import nn

from acm_export.surgery.candidates import candidates


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("vit", [("vit.layers.{}.mlp.fc1", "vit.layers.{}.mlp.fc2")]),
        ("bert", [("encoder.layer.{}.intermediate.dense", "encoder.layer.{}.output.dense")]),
        ("llama", [("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.down_proj")]),
        ("phi-3", [("model.layers.{}.mlp.gate_up_proj", "model.layers.{}.mlp.down_proj")]),
        ("gpt2", [("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj")]),
    ],
)
def test_the_ffns_of_a_model_are_candidates(name: str, pairs: list[tuple[str, str]]) -> None:
    model, _ = tiny_transformer(name)
    found = candidates(model)
    expected = [(a.format(i), b.format(i)) for i in range(2) for a, b in pairs]
    assert [pair for pair in found if "attn" not in pair[0]] == expected


def test_linear_maps_of_different_layers_or_without_a_wider_middle_are_no_candidates() -> None:
    assert candidates(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))) == ()
    block = nn.Module()
    block.narrow, block.wide = nn.Linear(8, 4), nn.Linear(4, 8)
    assert candidates(block) == ()
    block.narrow, block.wide = nn.Linear(4, 8), nn.Linear(8, 4)
    assert candidates(block) == (("narrow", "wide"),)
