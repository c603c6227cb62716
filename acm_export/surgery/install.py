"""Put ACM layers into the places of a model's dense modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from acm_export.errors import CheckpointError
from acm_export.modules import ACMLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.modules import ACMSpec
    from acm_export.surgery.families import Family


def install_acm_layers(model: PreTrainedModel, family: Family, specs: Mapping[str, ACMSpec]) -> None:
    """Replace dense modules by untrained ACM layers, in place.

    Args:
        model: A model of ``family``.
        family: Where the sites sit.
        specs: For each qualified module name the ACM layer that takes its place.

    Raises:
        CheckpointError: A name is not a site of the model, or a width contradicts the module at that site.
    """
    sites = find_sites(model, family)
    for name, spec in specs.items():
        if name not in sites:
            raise CheckpointError(
                f"{name!r} is not a place for an ACM layer; places: {_abridged(sorted(sites))}",
                "correct the layer's name, or the number of transformer layers",
            )
        up, *others = sites[name]
        dense = model.get_submodule(up)
        if dense.in_features != spec.model_dim:
            raise CheckpointError(
                f"the ACM layer {name!r} has D = {spec.model_dim} where the model has width {dense.in_features}",
                "the layers and the rest of the weights must come from one model",
            )
        model.set_submodule(name, ACMLayer(spec))
        for other in others:
            if not other.startswith(f"{name}."):
                model.set_submodule(other, nn.Identity())


def find_sites(model: PreTrainedModel, family: Family) -> dict[str, tuple[str, ...]]:
    """For each place of an ACM layer the dense modules that it does the work of, the one it reads from first."""
    sites: dict[str, tuple[str, ...]] = {}
    for index in range(getattr(model.config, family.num_layers)):
        layer, ffn = family.layer_path(model, index), family.ffn
        sites[f"{layer}.{ffn.place}"] = tuple(f"{layer}.{path}" for path in (ffn.up, ffn.activation, ffn.down))
        for path in family.projections.values():
            sites[f"{layer}.{path}"] = (f"{layer}.{path}",)
    return sites


def _abridged(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
