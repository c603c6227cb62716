"""FLOPs by part of the model, compared with PyTorch's counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import MAKE, acm_model, dense_model, interface, sites_of
from tiny_transformers import NAMES, tiny_transformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from acm_export.base.errors import OpError, UsageError
from acm_export.exporter import example_inputs
from acm_export.exporter.attention import plain_attention
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.modules.flops import (
    attention_core_flops,
    convolution_flops,
    gate_flops,
    gate_share,
    learner_flops,
    learners_share,
    linear_flops,
    site_flops,
)
from acm_export.surgery import Site, model_flops, spec_for
from acm_export.surgery.linear_maps import LinearMap


def counted(module: nn.Module, *inputs: torch.Tensor, **named: torch.Tensor) -> int:
    """FLOPs according to PyTorch's counter, which does not count fused attention on CPUs."""
    unfused = sdpa_kernel(SDPBackend.MATH)
    with plain_attention(module), unfused, torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs, **named)
    return int(counter.get_total_flops())


def test_each_part_matches_the_flop_counter() -> None:
    tokens = torch.randn(5, 12)
    assert counted(nn.Linear(12, 7), tokens) == 5 * linear_flops(12, 7)
    spec = ACMSpec(12, 3, 4, gate_hidden=(8, 6), gate_activation="relu")
    layer = ACMLayer(spec)
    assert counted(layer.gate, tokens) == 5 * gate_flops(spec)
    assert counted(layer.dense(), tokens) == 5 * 3 * learner_flops(spec)
    convolution = nn.Conv1d(8, 12, 5, stride=2, groups=4)
    assert counted(convolution, torch.randn(2, 8, 21)) == 2 * 9 * convolution_flops(8, 12, (5,), 4)
    query = torch.randn(2, 3, 7, 4)
    products = nn.Module()
    products.forward = lambda q: (q @ q.transpose(2, 3)) @ q  # type: ignore[method-assign]
    assert counted(products, query) == 2 * 7 * attention_core_flops(7, 12)


@pytest.mark.parametrize("name", MAKE)
def test_the_flops_of_a_dense_model_match_the_flop_counter(name: str) -> None:
    model = dense_model(name)
    inputs = example_inputs(interface(model), batch=3)
    flops = model_flops(model, inputs)
    assert flops.total == counted(model, **inputs)
    assert flops.learners == flops.gates == 0
    assert min(flops.dense_sites, flops.attention_core, flops.rest) > 0


@pytest.mark.parametrize("name", MAKE)
def test_acm_layers_change_only_the_flops_of_the_replaced_modules(name: str) -> None:
    dense, acm = dense_model(name), acm_model(name)
    inputs = example_inputs(interface(dense), batch=2)
    before, after = (model_flops(model, inputs) for model in (dense, acm))
    assert (after.rest, after.attention_core) == (before.rest, before.attention_core)
    layers = [module for module in acm.modules() if isinstance(module, ACMLayer)]
    tokens = before.dense_sites // (2 * site_flops(((12, 12),) * 4 + ((12, 24), (24, 12))))
    replaced = tokens * sum(site.flops for site in sites_of(dense, "ffn,o_proj"))
    assert after.dense_sites == before.dense_sites - replaced
    assert after.learners == tokens * sum(4 * learner_flops(layer.spec) for layer in layers)
    assert after.gates == tokens * sum(gate_flops(layer.spec) for layer in layers)
    assert after.at(1) == after.total
    assert after.at(0.25) == after.total - 0.75 * after.learners


@pytest.mark.parametrize("name", NAMES)
def test_the_flops_of_the_models_that_people_bring_match_the_flop_counter(name: str) -> None:
    model, inputs = tiny_transformer(name)
    flops = model_flops(model, inputs)
    assert flops.total == counted(model, **inputs)
    assert flops.attention_core > 0
    if name not in ("albert", "segformer", "mixtral"):  # no FFN of these can be replaced
        assert flops.dense_sites > 0


def test_nothing_is_computed_on_meta_tensors() -> None:
    model = acm_model("whisper")
    inputs = example_inputs(interface(model))
    expected = model_flops(model, inputs)
    abstract = model.to("meta")
    assert model_flops(abstract, {n: v.to("meta") for n, v in inputs.items()}) == expected


def test_a_model_in_training_mode_is_counted_completely_and_stays_in_training_mode() -> None:
    model = dense_model("wav2vec2")
    inputs = example_inputs(interface(model))
    expected = model_flops(model, inputs)
    model.config.layerdrop = 1.0
    model.train()
    model.encoder.layers[0].eval()
    assert model_flops(model, inputs) == expected
    assert [model.training, model.encoder.layers[0].training, model.encoder.layers[1].training] == [True, False, True]


def ffn(d: int, hidden: int, activation: str | None = "gelu") -> Site:
    up, down = LinearMap("up", d, hidden), LinearMap("down", hidden, d)
    return Site("layer.mlp", "ffn", up, down, activation=activation, residual=True)


def gated_ffn(d: int, hidden: int) -> Site:
    up, value, down = LinearMap("g", d, hidden), LinearMap("u", d, hidden), LinearMap("down", hidden, d)
    return Site("layer.mlp", "ffn", up, down, value, "silu", residual=True)


def projection(d: int, kind: str = "q_proj") -> Site:
    return Site(f"layer.{kind}", kind, LinearMap(f"layer.{kind}", d, d), residual=kind == "o_proj")


@pytest.mark.parametrize(
    ("site", "learners", "hidden", "gate"),
    [
        (ffn(768, 3072), 4, 768, 64),
        (ffn(1024, 4096), 8, 512, 80),
        (projection(768), 4, 96, 8),
        (ffn(12, 24), 4, 6, 8),
        (gated_ffn(896, 4864), 4, 1216, 144),
    ],
)
def test_all_learners_cost_as_much_as_the_replaced_modules(site: Site, learners: int, hidden: int, gate: int) -> None:
    spec = spec_for(site, learners)
    assert (spec.hidden_dim, spec.gate_hidden) == (hidden, (gate,))
    assert learners_share(spec, site.flops) == 1
    if site.model_dim >= 768:
        assert 0.009 < gate_share(spec, site.flops) < 0.0115


@given(
    d=st.integers(8, 2048),
    ratio=st.integers(1, 8),
    learners=st.integers(1, 16),
    factor=st.floats(0.25, 2),
    kind=st.sampled_from(["ffn", "q_proj", "o_proj"]),
)
def test_rounding_changes_the_cost_little(d: int, ratio: int, learners: int, factor: float, kind: str) -> None:
    site = ffn(d, ratio * d) if kind == "ffn" else projection(d, kind)
    exact = site.flops * factor / (4 * d * learners)
    if exact <= 0.5:
        with pytest.raises(UsageError, match="hidden units each"):
            spec_for(site, learners, factor)
        return
    spec = spec_for(site, learners, factor)
    assert abs(spec.hidden_dim - exact) <= (8 if exact >= 128 else 0.5)
    assert learners_share(spec, site.flops) == pytest.approx(factor * spec.hidden_dim / exact)
    assert spec.min_learners == (1 if kind == "q_proj" else 0)


def test_the_activation_of_the_site_is_used_if_supported() -> None:
    assert spec_for(ffn(64, 256, "relu"), 4).activation == "relu"
    assert spec_for(ffn(64, 256, None), 4).activation == "gelu"
    assert spec_for(projection(64), 4, min_learners=2).min_learners == 2


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_factor_is_refused(factor: float) -> None:
    with pytest.raises(UsageError, match="FLOPs factor"):
        spec_for(ffn(64, 256), 4, factor)


def test_zero_learners_are_refused() -> None:
    with pytest.raises(OpError, match="num_learners is 0"):
        spec_for(ffn(64, 256), 0)


def test_sites_of_a_family_have_the_widths_of_its_modules() -> None:
    model: Any = dense_model("bert")
    (first, *_), (query, *_) = (sites_of(model, part) for part in ("ffn", "q_proj"))
    assert [part.module for part in first.linear_maps] == [
        "encoder.layer.0.intermediate.dense",
        "encoder.layer.0.output.dense",
    ]
    assert (first.widths, first.activation, first.residual) == (((12, 24), (24, 12)), "gelu", True)
    assert (query.widths, query.activation, query.residual) == (((12, 12),), None, False)
