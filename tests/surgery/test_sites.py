"""The sites that an ACM layer can replace, and the names that select them."""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from tiny_architectures import tiny_model
from tiny_families import MAKE, acm_model, dense_model, install_sites, interface, sites_of
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.exporter import example_inputs
from acm_export.modules import ACMSpec
from acm_export.surgery import InputSpec, PlacedLayer, find_sites, install_acm_layers, interface_of, spec_for
from acm_export.surgery.sites import ffn_weights


def places(model: Any, sites: str) -> list[str]:
    return [site.place for site in sites_of(model, sites)]


@pytest.mark.parametrize("name", MAKE)
def test_every_layer_of_every_family_has_an_ffn_and_four_projections(name: str) -> None:
    model = dense_model(name)
    everything = places(model, "ffn,qkvo")
    assert everything == [site.place for site in find_sites(model, interface(model)).sites]
    assert len(everything) == 10
    ffns = sites_of(model)
    assert [site.kind for site in ffns] == ["ffn", "ffn"]
    assert {(site.widths, site.activation) for site in ffns} == {(((12, 24), (24, 12)), "gelu")}
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert [(s.kind, s.widths) for s in sites_of(model, kind)] == [(kind, ((12, 12),))] * 2


def test_selections_are_combined_in_the_order_of_the_model() -> None:
    model = dense_model("vit")
    assert places(model, "q_proj, ffn") == [
        "vit.layers.0.attention.q_proj",
        "vit.layers.0.mlp",
        "vit.layers.1.attention.q_proj",
        "vit.layers.1.mlp",
    ]
    assert places(model, "*.1.*") == places(model, "vit.layers.1.*")
    assert places(model, "*.layers.[0].mlp,vit.layers.0.mlp") == ["vit.layers.0.mlp"]


@pytest.mark.parametrize("part", ["mlp", "ffn,", "q", "*.layers.7.*", "embeddings"])
def test_a_selection_of_nothing_lists_the_available_sites(part: str) -> None:
    model = dense_model("vit")
    with pytest.raises(UsageError, match="available: ffn, qkvo, q_proj, k_proj, v_proj, o_proj") as refusal:
        sites_of(model, part)
    assert "vit.layers.0.mlp" in str(refusal.value.hint)
    assert "10 in total" in str(refusal.value.hint)


def test_the_activation_has_the_operators_name_or_is_none() -> None:
    known = {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
        "quick_gelu": "silu",
        "relu2": None,
        "tanh": None,
    }
    for stated, expected in known.items():
        model = transformers.BertModel(
            transformers.BertConfig(
                hidden_size=12,
                num_hidden_layers=1,
                num_attention_heads=3,
                intermediate_size=24,
                vocab_size=9,
                hidden_act=stated,
            )
        )
        (site,) = sites_of(model)
        assert site.activation == expected


@pytest.mark.parametrize("name", MAKE)
def test_an_acm_layer_replaces_all_the_modules_at_its_site(name: str) -> None:
    """Learners made of the dense weights: with all of them running, the model is what it was."""
    dense, model = dense_model(name), dense_model(name)
    model.load_state_dict(dense.state_dict())
    sites = sites_of(dense)
    install_sites(model, dict.fromkeys(sites, ACMSpec(12, 4, 6, min_learners=4, activation="gelu")))
    with torch.no_grad():
        for site in sites:
            weights, layer = ffn_weights(dense, site), model.get_submodule(site.place)
            assert layer.emptied == site.emptied
            layer.w1.copy_(weights.w1.T)
            layer.b1.copy_(weights.b1)
            layer.w2.copy_(weights.w2.T)
            layer.b2.copy_(weights.b2.expand(5, -1))
        inputs = example_inputs(interface(dense))
        assert torch.allclose(model(**inputs)[0], dense(**inputs)[0], atol=1e-5)


def test_an_acm_layer_is_no_site() -> None:
    model = acm_model("bert", "ffn")
    with pytest.raises(UsageError, match="'ffn' selects no site of this model; available: qkvo, q_proj"):
        places(model, "ffn")
    assert len(places(model, "qkvo")) == 8


@pytest.mark.parametrize(
    ("place", "emptied", "d", "message"),
    [
        ("encoder.layer.7.intermediate", (), 12, r"replaces 'encoder\.layer\.7\.intermediate', which is not a module"),
        ("encoder.layer.0.intermediate", ("nowhere",), 12, "replaces 'nowhere', which is not a module"),
        ("encoder.layer.0.intermediate", ("encoder.layer.0.output.dense",), 8, "D = 8, but the model has width 12"),
        ("encoder.layer.0.intermediate", (), 12, "12 at its input and 24 at its output"),
        ("embeddings", (), 12, "replaces a BertEmbeddings without linear maps"),
        ("", (), 12, "which is not a module"),
    ],
)
def test_a_place_that_cannot_be_replaced_is_named(place: str, emptied: tuple[str, ...], d: int, message: str) -> None:
    model = dense_model("bert")
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(CheckpointError, match=message):
        install_acm_layers(model, interface(model), {place: PlacedLayer(ACMSpec(d, 4, 2), emptied)})
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_a_gated_ffn_among_others_is_a_site() -> None:
    model = dense_model("vit")
    model.vit.layers[1].mlp = GatedMLP()
    first, second = sites_of(model)
    assert (first.value, second.activation) == (None, "silu")
    assert [spec_for(site, 4).glu for site in (first, second)] == [False, True]
    model.vit.layers[1].mlp = nn.Linear(12, 12)
    assert places(model, "ffn") == ["vit.layers.0.mlp"]


class GatedMLP(nn.Module):
    """A gated FFN as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def test_a_model_without_sites_says_what_was_left() -> None:
    model = dense_model("vit")
    for layer in model.vit.layers:
        layer.mlp.norm, layer.mlp.forward = nn.LayerNorm(24), MethodType(_with_norm, layer.mlp)
    reason = r"'ffn' selects no site .*vit\.layers\.\*\.mlp \(2 times\): a norm \(vit\.layers\.\*\.mlp\.norm\)"
    with pytest.raises(UsageError, match=reason):
        places(model, "ffn")


def _with_norm(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    return mlp.fc2(mlp.norm(mlp.activation_fn(mlp.fc1(x))))


def test_inputs_on_which_the_model_does_not_run_are_named_with_the_candidates() -> None:
    model = dense_model("vit")
    how = replace(interface(model), inputs=(InputSpec("pixel_values", ("batch", 1, 9, 9)),))
    with pytest.raises(
        CheckpointError, match=r"does not run on example inputs \(pixel_values \[1, 1, 9, 9\]\)"
    ) as refusal:
        find_sites(model, how)
    assert "vit.layers.0.mlp.fc1 -> vit.layers.0.mlp.fc2" in str(refusal.value)
    assert "register_family" in str(refusal.value.hint)


def test_a_model_in_half_precision_has_the_same_sites() -> None:
    model = tiny_model("beit")
    expected = find_sites(model, interface_of(model))
    half = tiny_model("beit").half()
    assert find_sites(half, interface_of(half)).sites == expected.sites
