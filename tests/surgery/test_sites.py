"""The sites that an ACM layer can replace, and the names that select them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tiny_families import MAKE, acm_model, dense_model, family, interface
from torch import nn

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.exporter import example_inputs
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.surgery import find_sites, install_acm_layers, select_sites


def places(model: Any, sites: str) -> list[str]:
    return [site.place for site in select_sites(model, family(model), sites)]


@pytest.mark.parametrize("name", MAKE)
def test_every_layer_of_every_family_has_an_ffn_and_four_projections(name: str) -> None:
    model = dense_model(name)
    everything = places(model, "ffn,qkvo")
    assert everything == list(find_sites(model, family(model)))
    assert len(everything) == 10
    ffns = select_sites(model, family(model))
    assert [site.kind for site in ffns] == ["ffn", "ffn"]
    assert {(site.widths, site.activation) for site in ffns} == {(((12, 24), (24, 12)), "gelu")}
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert [(s.kind, s.widths) for s in select_sites(model, family(model), kind)] == [(kind, ((12, 12),))] * 2


def test_selections_are_combined_in_the_order_of_the_model() -> None:
    model = dense_model("vit")
    assert places(model, "q_proj, ffn") == [
        "vit.layers.0.mlp",
        "vit.layers.0.attention.q_proj",
        "vit.layers.1.mlp",
        "vit.layers.1.attention.q_proj",
    ]
    assert places(model, "*.1.*") == places(model, "vit.layers.1.*")
    assert places(model, "*.layers.[0].mlp,vit.layers.0.mlp") == ["vit.layers.0.mlp"]


@pytest.mark.parametrize("part", ["mlp", "ffn,", "q", "*.layers.7.*", "embeddings"])
def test_a_selection_of_nothing_lists_the_available_sites(part: str) -> None:
    model = dense_model("vit")
    with pytest.raises(UsageError, match="available: ffn, qkvo, q_proj, k_proj, v_proj, o_proj") as refusal:
        select_sites(model, family(model), part)
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
        "quick_gelu": None,
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
        (site,) = select_sites(model, family(model))
        assert site.activation == expected


@pytest.mark.parametrize("name", MAKE)
def test_an_acm_layer_replaces_all_the_modules_at_its_site(name: str) -> None:
    """Learners made of the dense weights: with all of them running, the model is what it was."""
    dense, model = dense_model(name), dense_model(name)
    model.load_state_dict(dense.state_dict())
    specs = {}
    for site in select_sites(model, family(model)):
        specs[site.place] = ACMSpec(12, 4, 6, min_learners=4, activation="gelu")
    sites = select_sites(dense, family(dense))
    originals = {site.place: [dense.get_submodule(name) for name in site.modules] for site in sites}
    install_acm_layers(model, family(model), specs)
    with torch.no_grad():
        for place, (up, _, down) in originals.items():
            layer = model.get_submodule(place)
            layer.w1.copy_(up.weight.T)
            layer.b1.copy_(up.bias)
            layer.w2.copy_(down.weight.T)
            layer.b2.copy_(down.bias.expand(5, -1))
        inputs = example_inputs(interface(dense))
        assert torch.allclose(model(**inputs)[0], dense(**inputs)[0], atol=1e-5)


def test_a_place_that_cannot_be_replaced_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.0\.intermediate is already an ACM layer"):
        places(acm_model("bert"), "ffn")
    model = dense_model("bert")
    model.encoder.layer[1].attention.self.query = nn.Linear(12, 6)
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.self\.query maps width 12 to 6"):
        places(model, "qkvo")
    with pytest.raises(CheckpointError, match="12 at its input and 6 at its output"):
        install_acm_layers(model, family(model), {"encoder.layer.1.attention.self.query": ACMSpec(12, 4, 2)})
    model.encoder.layer[0].intermediate.dense = ACMLayer(ACMSpec(12, 4, 2))
    with pytest.raises(CheckpointError, match=r"layer\.0\.intermediate consists of ACMLayer, .*expected linear maps"):
        places(model, "ffn")


class GatedMLP(nn.Module):
    """A gated FFN as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(24, 12)


def test_a_gated_ffn_in_a_known_family_is_named() -> None:
    model = dense_model("vit")
    model.vit.layers[1].mlp = GatedMLP()
    with pytest.raises(CheckpointError, match=r"vit\.layers\.1\.mlp is a gated feed-forward network \(SwiGLU\)"):
        places(model, "ffn")
    assert len(places(model, "qkvo")) == 8
    model.vit.layers[1].mlp = nn.Linear(12, 12)
    with pytest.raises(CheckpointError, match=r"vit\.layers\.1\.mlp has .*fc1"):
        places(model, "ffn")
