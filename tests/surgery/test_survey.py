"""The sites that a survey finds in the models that people bring, and that replacing them changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from surveyed_models import NAMES, tiny_transformer
from torch import nn

from acm_export.modules.activations import activation_fn
from acm_export.surgery.sites import Site, ffn_weights
from acm_export.surgery.survey import survey

_BERT = ("encoder.layer.{}.intermediate", ("encoder.layer.{}.output.dense",), "gelu", False, 2)
_ENCODER = ("encoder.layers.{}.feed_forward", (), "gelu", False, 2)
_LLAMA = ("model.layers.{}.mlp", (), "silu", True, 2)
_T5 = [("encoder.block.{}.layer.1.DenseReluDense", 2), ("decoder.block.{}.layer.2.DenseReluDense", 2)]


def _whisper(side: str) -> tuple[str, tuple[str, ...], str, bool, int]:
    layer = f"{side}.layers.{{}}"
    return f"{layer}.fc1", (f"{layer}.activation_fn", f"{layer}.fc2"), "gelu", False, 2


def _under(prefix: str, row: tuple[str, tuple[str, ...], str, bool, int]) -> tuple[str, Any, str, bool, int]:
    place, emptied, *others = row
    return prefix + place, tuple(prefix + name for name in emptied), *others  # type: ignore[return-value]


FFNS: dict[str, list[tuple[str, tuple[str, ...], str, bool, int]]] = {
    "vit": [("vit.layers.{}.mlp", (), "gelu", False, 2)],
    "deit": [("deit.layers.{}.mlp", (), "gelu", False, 2)],
    "bert": [_BERT],
    "wav2vec2": [_ENCODER],
    "wav2vec2, stable": [_under("wav2vec2.", _ENCODER)],
    "hubert": [_ENCODER],
    "wavlm": [_ENCODER],
    "data2vec audio": [_ENCODER],
    "data2vec vision": [("encoder.layer.{}.intermediate", ("encoder.layer.{}.output",), "gelu", False, 2)],
    "data2vec text": [_BERT],
    "dinov2": [("encoder.layer.{}.mlp", (), "gelu", False, 2)],
    "dinov2, swiglu": [("encoder.layer.{}.mlp", (), "silu", True, 2)],
    "clip vision": [("encoder.layers.{}.mlp", (), "gelu", False, 2)],
    "clip text": [("encoder.layers.{}.mlp", (), "silu", False, 2)],
    "siglip vision": [("encoder.layers.{}.mlp", (), "gelu_tanh", False, 2)],
    "siglip text": [("encoder.layers.{}.mlp", (), "gelu_tanh", False, 2)],
    "roberta": [_under("roberta.", _BERT)],
    "xlm-r": [_BERT],
    "distilbert": [("transformer.layer.{}.ffn", (), "gelu", False, 2)],
    "mpnet": [_BERT],
    "electra": [_BERT],
    "modernbert": [("layers.{}.mlp", (), "gelu", True, 2)],
    "swin": [(f"encoder.layers.{stage}.blocks.{{}}.mlp", (), "gelu", False, 2) for stage in range(2)],
    "swinv2": [
        (f"encoder.layers.{i}.blocks.{{}}.intermediate", (f"encoder.layers.{i}.blocks.{{}}.output",), "gelu", False, 2)
        for i in range(2)
    ],
    "ast": [("layers.{}.mlp", (), "gelu", False, 2)],
    "vit-mae": [
        ("vit.layers.{}.mlp", (), "gelu", False, 2),
        ("decoder.decoder_layers.{}.mlp", (), "gelu", False, 1),
    ],
    "beit": [("layers.{}.mlp", (), "gelu", False, 2)],
    "detr": [(f"{side}.layers.{{}}.mlp", (), "relu", False, 2) for side in ("encoder", "decoder")],
    "depth anything": [("backbone.encoder.layer.{}.mlp", (), "gelu", False, 2)],
    "whisper": [_whisper("encoder"), _whisper("decoder")],
    "gpt2": [("transformer.h.{}.mlp", (), "gelu_tanh", False, 2)],
    "llama": [_LLAMA],
    "qwen2": [_LLAMA],
    "qwen3": [_LLAMA],
    "gemma": [("model.layers.{}.mlp", (), "gelu_tanh", True, 2)],
    "gemma 3": [("model.layers.{}.mlp", (), "gelu_tanh", True, 2)],
    "phi-3": [_LLAMA],
    "mistral": [_LLAMA],
    "falcon": [("transformer.h.{}.mlp", (), "gelu", False, 2)],
    "t5": [(place, (), "relu", False, count) for place, count in _T5],
    "t5, gated": [(place, (), "gelu_tanh", True, count) for place, count in _T5],
    "esm": [_BERT],
    "squeezebert": [("encoder.layers.{}.intermediate", ("encoder.layers.{}.output.conv1d",), "gelu", False, 2)],
    "albert": [],
    "segformer": [],
    "mixtral": [],
}
"""Place, emptied modules, activation (empty: not one of the operator's), gated, number of layers."""

_ALL = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NARROW = ("llama", "qwen2", "qwen3", "gemma", "gemma 3", "mistral", "mixtral")
_FUSED = ("modernbert", "gpt2", "phi-3", "falcon")
PROJECTIONS = (
    {name: {"q_proj", "o_proj"} for name in _NARROW}
    | {name: {"o_proj"} for name in _FUSED}
    | {"wavlm": set(), "albert": set()}
)
"""Kinds of projections that can be replaced, where they are not all four."""


def _expected(name: str) -> list[tuple[str, tuple[str, ...], str | None, bool]]:
    return [
        (place.format(i), tuple(part.format(i) for part in emptied), activation or None, gated)
        for place, emptied, activation, gated, count in FFNS[name]
        for i in range(count)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_ffns_and_projections_of_a_model_are_found(name: str) -> None:
    sites = survey(*tiny_transformer(name)).sites
    found = [(s.place, s.emptied, s.activation, s.value is not None) for s in sites if s.kind == "ffn"]
    assert found == _expected(name)
    assert {site.kind for site in sites} - {"ffn"} == PROJECTIONS.get(name, _ALL)
    assert all(site.residual == (site.kind in ("ffn", "o_proj")) for site in sites)


class DenseFFN(nn.Module):
    """A feed-forward network made of the weights that a site reports."""

    def __init__(self, model: nn.Module, site: Site, activation: str) -> None:
        super().__init__()
        self.weights, self.axis, self.activation = ffn_weights(model, site), site.axis, activation_fn(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, linear = self.weights, nn.functional.linear
        tokens = x.movedim(self.axis, -1)
        hidden = self.activation(w.scale * linear(tokens, w.w1, w.b1)) / w.scale
        if w.v1 is not None:
            hidden = hidden * linear(tokens, w.v1, w.c1)
        return linear(hidden, w.w2, w.b2).movedim(-1, self.axis)


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else next(v for v in output.values() if v is not None)


@pytest.mark.parametrize("name", [name for name in NAMES if all(row[2] for row in FFNS[name]) and FFNS[name]])
def test_an_equal_ffn_at_every_place_leaves_the_output_unchanged(name: str) -> None:
    model, inputs = tiny_transformer(name)
    replaced = copy.deepcopy(model)
    for site in (site for site in survey(model, inputs).sites if site.kind == "ffn"):
        assert site.activation is not None
        replaced.set_submodule(site.place, DenseFFN(model, site, site.activation))
        for emptied in site.emptied:
            replaced.set_submodule(emptied, nn.Identity())
    zeroed = copy.deepcopy(replaced)
    for part in zeroed.modules():
        if isinstance(part, DenseFFN):
            part.activation = torch.zeros_like
    with torch.no_grad():
        torch.manual_seed(5)  # ViT-MAE masks patches at random
        before = _first(model(**inputs))
        torch.manual_seed(5)
        after = _first(replaced(**inputs))
        torch.manual_seed(5)
        without = _first(zeroed(**inputs))
    difference, change = (float((before - other).abs().max()) for other in (after, without))
    assert difference < 1e-5
    assert change > 20 * max(difference, 1e-7)


@pytest.mark.parametrize("name", ["vit", "gpt2", "llama", "squeezebert"])
def test_a_projection_reports_the_weights_of_its_linear_map(name: str) -> None:
    model, inputs = tiny_transformer(name)
    projections = [site for site in survey(model, inputs).sites if site.kind != "ffn"]
    for site in projections:
        weight, bias = site.up.weights(model)
        x = torch.randn(1, 12, 5) if site.axis == 1 else torch.randn(1, 5, 12)
        tokens = torch.nn.functional.linear(x.movedim(site.axis, -1), weight, bias)
        with torch.no_grad():
            assert torch.allclose(model.get_submodule(site.place)(x), tokens.movedim(-1, site.axis), atol=1e-6)


LEFT = {
    "albert": ("encoder.albert_layer_groups.0.albert_layers.0.ffn", "ffn is used 2 times in one pass"),
    "segformer": ("stages.0.blocks.0.mlp", "a convolution .*dwconv.* between its linear maps"),
    "mixtral": ("model.layers.1.mlp", "mixture of experts"),
    "siglip vision": ("head.mlp", "one token per sample"),
    "roberta": ("classifier", "maps width 12 to 2"),
    "llama": ("model.layers.0.self_attn.k_proj", "maps width 12 to 4"),
    "gpt2": ("transformer.h.0.attn.c_attn", "one linear map computes q, k, v"),
    "wavlm": ("encoder.layers.0.attention", "function call"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_has_a_reason(name: str) -> None:
    place, reason = LEFT[name]
    left = {item.name: item.reason for item in survey(*tiny_transformer(name)).left}
    assert place in left
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(left[place])


@pytest.mark.parametrize("name", ["vit", "llama", "t5", "mixtral"])
def test_a_survey_does_not_change_the_model(name: str) -> None:
    model, inputs = tiny_transformer(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    survey(model, inputs)
    assert all(part.training for part in model.modules())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("use_cache", [False, True])
def test_inputs_on_meta_give_the_same_sites(use_cache: bool) -> None:
    model, inputs = tiny_transformer("llama")
    model.config.use_cache = use_cache
    meta = {name: value.to("meta") for name, value in inputs.items()}
    assert survey(model, meta) == survey(model, inputs)
