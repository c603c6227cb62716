"""Compare a model whose FFNs are ACM layers with all learners running with the dense model, before any training."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from acm_export.base.errors import CheckpointError
from acm_export.distillation.initialise import learners_from_ffn
from acm_export.distillation.statistics import SiteStatistics
from acm_export.modules import ACMLayer
from acm_export.modules.evaluating import evaluating
from acm_export.surgery.examples import unpadded_inputs
from acm_export.surgery.sites import ffn_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from acm_export.surgery import ModelInterface, Site

_TOLERANCE = 1e-4
"""Float32 sums in another order change outputs by about 1e-6; a wrong replacement by a share of the FFN's output."""


def check_surgery(
    dense: nn.Module, interface: ModelInterface, sites: Sequence[Site], layers: Mapping[str, ACMLayer]
) -> None:
    """Check that all learners together compute what the dense model computes, on example inputs.

    FFNs with more neurons than the learners are compared one by one, with temporary layers that hold all their neurons.
    FFNs with an activation that the operator does not have and projections are left dense: their learners do not
    compute the same.

    Args:
        dense: Dense model; unchanged.
        interface: How to run the model.
        sites: Replaced sites.
        layers: Layers with the teacher's neurons, by place; unchanged.

    Raises:
        CheckpointError: The outputs differ; the message names the first site whose replacement changes them.
    """
    known = [site for site in sites if site.down is not None and site.activation is not None]
    equal = [site for site in known if _units(layers[site.place]) >= site.hidden_dim]
    device = next(dense.parameters()).device
    inputs = {name: value.to(device) for name, value in unpadded_inputs(dense, interface).items()}
    expected = _outputs(dense, inputs)
    with _all_learners([layers[site.place] for site in equal]):
        if _difference(_replaced(dense, equal, layers), inputs, expected) is not None:
            for site in equal:
                _check_site(dense, site, layers[site.place], inputs, expected)
            places = ", ".join(site.place for site in equal)
            raise CheckpointError(
                "with all learners running, the model does not compute what the dense model computes, although each "
                f"ACM layer alone does: {places}",
                "replace fewer of them with --sites, and report the model",
            )
    for site in known:
        if site not in equal:  # one at a time: only one temporary layer is in memory
            _check_site(dense, site, _whole_layer(dense, site, layers[site.place]), inputs, expected)


def _units(layer: ACMLayer) -> int:
    return layer.spec.num_learners * layer.spec.hidden_dim


def _check_site(
    dense: nn.Module, site: Site, layer: ACMLayer, inputs: Mapping[str, torch.Tensor], expected: list[torch.Tensor]
) -> None:
    difference = _difference(_replaced(dense, [site], {site.place: layer}), inputs, expected)
    if difference is not None:
        raise CheckpointError(
            f"{site.place}: with all learners running, the ACM layer does not compute what the dense modules compute; "
            f"{difference}",
            f"leave it out with --sites, and report the model; dense modules: "
            f"{', '.join(part.module for part in site.linear_maps)}",
        )


def _whole_layer(dense: nn.Module, site: Site, layer: ACMLayer) -> ACMLayer:
    """A layer like another one, but wide enough for all neurons of the site, with all learners running."""
    width, d = site.hidden_dim, site.model_dim
    with torch.random.fork_rng():  # whether a site is checked does not change the training behind
        wide = ACMLayer(replace(layer.spec, hidden_dim=-(-width // layer.spec.num_learners)))
    wide.to(layer.w1.device, layer.w1.dtype)
    zeros = torch.zeros(width, dtype=torch.float64)
    any_order = SiteStatistics(zeros, zeros, torch.zeros(d, dtype=torch.float64), 1.0, None, 1.0)
    learners_from_ffn(wide, ffn_weights(dense, site), any_order)
    wide.thresholds.fill_(-torch.inf)
    return wide


def _replaced(dense: nn.Module, sites: Sequence[Site], layers: Mapping[str, ACMLayer]) -> nn.Module:
    """The dense model with ACM layers at some sites; it shares all its parameters."""
    shared = {id(tensor): tensor for tensor in (*dense.parameters(), *dense.buffers())}
    model = copy.deepcopy(dense, dict[int, Any](shared))
    for site in sites:
        model.set_submodule(site.place, layers[site.place])
        for name in site.emptied:
            model.set_submodule(name, nn.Identity())
    return model


@contextmanager
def _all_learners(layers: Sequence[ACMLayer]) -> Iterator[None]:
    before = [layer.thresholds.clone() for layer in layers]
    try:
        for layer in layers:
            layer.thresholds.fill_(-torch.inf)
        yield
    finally:
        for layer, thresholds in zip(layers, before, strict=True):
            layer.thresholds.copy_(thresholds)


def _outputs(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad(), evaluating(model), torch.random.fork_rng():
        torch.manual_seed(0)  # some models mask inputs at random
        output = model(**inputs)
    leaves = pytree.tree_leaves(dict(output) if hasattr(output, "items") else output)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _difference(model: nn.Module, inputs: Mapping[str, torch.Tensor], expected: list[torch.Tensor]) -> str | None:
    """How the outputs of a model differ from the expected ones, in words; None if they are equal."""
    try:
        found = _outputs(model, inputs)
    except Exception as failure:  # noqa: BLE001  whatever the model raises
        return f"the model fails: {type(failure).__name__}: {failure}"
    if [value.shape for value in found] != [value.shape for value in expected]:
        return "the model's outputs have other shapes"
    error = max(map(_error, found, expected), default=0.0)
    return None if error <= _TOLERANCE else f"the model's outputs differ by {error:.2g} of their size"


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference between two outputs, relative to the largest finite value; infinite where only one is NaN."""
    a, b = found.float(), expected.float()
    same = (a == b) | (a.isnan() & b.isnan())
    size = b[b.isfinite()].abs().max().clamp(min=1e-6) if b.isfinite().any() else b.new_ones(())
    differences = (a - b).abs()[~same] / size
    return float(differences.nan_to_num(nan=torch.inf).max()) if differences.numel() else 0.0
