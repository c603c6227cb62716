"""Replace dense modules of a model by ACM layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from acm_export.base.errors import CheckpointError
from acm_export.modules import ACMLayer
from acm_export.surgery.padding import mark_padding
from acm_export.surgery.sites import abridged, find_sites

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.modules import ACMSpec
    from acm_export.surgery.family import ModelFamily


def install_acm_layers(model: PreTrainedModel, family: ModelFamily, specs: Mapping[str, ACMSpec]) -> None:
    """Replace dense modules by untrained ACM layers, in place.

    If the model takes a padding mask, padding tokens run ``min_learners``.

    Args:
        model: Model of ``family``, changed in place.
        family: Family of the model.
        specs: Descriptions of the ACM layers, by the qualified name of the module that each one replaces.

    Raises:
        CheckpointError: A name is not a site of the model, or a width contradicts the modules at that site.
    """
    sites = find_sites(model, family)
    for name, spec in specs.items():
        if name not in sites:
            raise CheckpointError(
                f"{name!r} is not a place for an ACM layer; places: {abridged(sorted(sites))}",
                "correct the layer's name, or the number of transformer layers",
            )
        up, *others = sites[name]
        reads, writes = model.get_submodule(up).in_features, model.get_submodule(sites[name][-1]).out_features
        if (reads, writes) != (spec.model_dim, spec.model_dim):
            width = reads if reads == writes else f"{reads} at its input and {writes} at its output"
            raise CheckpointError(
                f"the ACM layer {name!r} has D = {spec.model_dim}, but the model has width {width}",
                "the ACM layers and the other weights must come from the same model",
            )
        model.set_submodule(name, ACMLayer(spec))
        for other in others:
            if not other.startswith(f"{name}."):
                model.set_submodule(other, nn.Identity())
    disable_ffn_chunking(model)
    mark_padding(model, family.interface(model))


def disable_ffn_chunking(model: PreTrainedModel) -> None:
    """Disable ``chunk_size_feed_forward``: chunks of tokens save memory, but the padding mask would not fit them."""
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0
