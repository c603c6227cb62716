"""The comparison of all learners with the dense model before training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from surveyed_models import NAMES, tiny_transformer

from acm_export.base.errors import CheckpointError
from acm_export.distillation.check_surgery import check_surgery
from acm_export.distillation.initialise import learners_from_ffn
from acm_export.distillation.statistics import gather_statistics
from acm_export.modules import ACMLayer
from acm_export.surgery import (
    InputSpec,
    ModelInterface,
    PlacedLayer,
    install_acm_layers,
    select_sites,
    spec_for,
    survey,
)
from acm_export.surgery.sites import ffn_weights

if TYPE_CHECKING:
    from acm_export.surgery import Site

WITHOUT_FFNS = ("albert", "segformer", "mixtral")


def interface_of(inputs: dict[str, torch.Tensor], output: str) -> ModelInterface:
    """How to run a model on inputs like these."""
    specs = tuple(
        InputSpec(name, tuple(value.shape), "float32" if value.is_floating_point() else "int64", below)
        for name, value in inputs.items()
        for below in [None if value.is_floating_point() else 20]
    )
    return ModelInterface(specs, (output,))


def initialised(name: str) -> tuple[Any, ModelInterface, tuple[Site, ...], dict[str, ACMLayer]]:
    """A model, how to run it, its FFNs, and layers with their neurons."""
    model, inputs = tiny_transformer(name)
    with torch.no_grad():
        output = next(key for key, value in model(**inputs).items() if value is not None and value.ndim)
    interface = interface_of(inputs, output)
    sites = select_sites(survey(model, inputs))
    found = gather_statistics(model, interface, sites, [inputs])
    layers = {}
    for site in sites:
        layer = layers[site.place] = ACMLayer(spec_for(site, 4))
        learners_from_ffn(layer, ffn_weights(model, site), found[site.place])
    return model, interface, sites, layers


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_FFNS])
def test_all_learners_of_every_model_compute_what_the_dense_model_computes(name: str) -> None:
    model, interface, sites, layers = initialised(name)
    check_surgery(model, interface, sites, layers)
    for layer in layers.values():
        assert bool((layer.thresholds == 0).all())
    known = [site for site in sites if site.activation is not None]
    if not known:
        return
    with torch.no_grad():
        layers[known[-1].place].w2.copy_(layers[known[-1].place].w2.flip(1))
    with pytest.raises(CheckpointError, match=rf"^{known[-1].place}: with all learners running"):
        check_surgery(model, interface, sites, layers)


def test_the_first_site_that_differs_is_named_with_its_modules() -> None:
    model, interface, sites, layers = initialised("bert")
    for place in layers:
        _shift(layers[place])
    with pytest.raises(CheckpointError, match=r"^encoder\.layer\.0\.intermediate: .*differ by") as refusal:
        check_surgery(model, interface, sites, layers)
    assert "encoder.layer.0.output.dense" in str(refusal.value.hint)


def test_a_model_that_fails_after_surgery_is_an_error_that_names_the_site() -> None:
    model, interface, sites, layers = initialised("bert")
    wrong = [replace(sites[0], emptied=()), sites[1]]
    with pytest.raises(CheckpointError, match=r"^encoder\.layer\.0\.intermediate: .*the model fails: RuntimeError"):
        check_surgery(model, interface, wrong, layers)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_only_one_of_the_models_computes_are_a_difference(value: float) -> None:
    model, interface, sites, layers = initialised("bert")
    with torch.no_grad():
        layers[sites[-1].place].b2[-1, 0] = value
    with pytest.raises(CheckpointError, match="differ by"):
        check_surgery(model, interface, sites, layers)


def _shift(layer: ACMLayer) -> None:
    with torch.no_grad():
        layer.b2[:, 0].add_(1.0)


def test_sites_whose_learners_cannot_be_equal_are_left_dense() -> None:
    model, interface, sites, layers = initialised("vit")
    with torch.no_grad():
        for layer in layers.values():
            layer.w2.zero_()
    unknown = [replace(site, activation=None) for site in sites]
    check_surgery(model, interface, unknown, layers)
    smaller = {site.place: ACMLayer(spec_for(site, 4, flops_factor=0.5)) for site in sites}
    check_surgery(model, interface, sites, smaller)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_sites_with_more_neurons_than_the_learners_are_checked_too(name: str) -> None:
    model, interface, sites, _ = initialised(name)
    smaller = {site.place: ACMLayer(spec_for(site, 4, flops_factor=0.5)) for site in sites}
    before = torch.get_rng_state()
    check_surgery(model, interface, sites, smaller)
    assert torch.equal(torch.get_rng_state(), before)
    wrong = [sites[0], replace(sites[1], activation="relu")]
    layers = {site.place: ACMLayer(spec_for(site, 4, flops_factor=0.5)) for site in wrong}
    with pytest.raises(CheckpointError, match=rf"^{sites[1].place}: with all learners running, .*differ by"):
        check_surgery(model, interface, wrong, layers)


@pytest.mark.parametrize("name", ["squeezebert", "llama", "t5, gated"])
def test_installed_layers_run_in_the_model(name: str) -> None:
    model, interface, sites, layers = initialised(name)
    _, inputs = tiny_transformer(name)
    with torch.no_grad():
        expected = model(**inputs)[interface.outputs[0]]
    placed = {site.place: PlacedLayer(layers[site.place].spec, site.emptied) for site in sites}
    install_acm_layers(model, interface, placed)
    for place, layer in layers.items():
        installed = model.get_submodule(place)
        installed.load_state_dict(layer.state_dict())
        installed.thresholds.fill_(-torch.inf)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[interface.outputs[0]], expected, rtol=1e-4, atol=1e-5)
