"""Replace dense modules of a model by ACM layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from acm_export.base.errors import CheckpointError
from acm_export.modules import ACMLayer
from acm_export.surgery.linear_maps import linear_shape
from acm_export.surgery.padding import mark_padding
from acm_export.surgery.prepare import disable_encoder_fast_path, disable_ffn_chunking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acm_export.modules import ACMSpec
    from acm_export.surgery.interface import ModelInterface


@dataclass(frozen=True)
class PlacedLayer:
    """An ACM layer and its surroundings in a model.

    Args:
        spec: Description of the layer.
        emptied: Names of the modules outside the layer's place that become identities, because the layer computes what
            they computed.
    """

    spec: ACMSpec
    emptied: tuple[str, ...] = ()


def install_acm_layers(model: nn.Module, interface: ModelInterface, layers: Mapping[str, PlacedLayer]) -> None:
    """Replace dense modules by untrained ACM layers, in place.

    If the model takes a padding mask, padding tokens run ``min_learners``.

    Args:
        model: Model, changed in place.
        interface: How to run the model.
        layers: ACM layers by the qualified name of the module that each one replaces.

    Raises:
        CheckpointError: A name is not a module of the model, names overlap, or a width contradicts the modules that are
            replaced.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, placed in layers.items():
        for part in (name, *placed.emptied):
            if not part or part not in modules:
                raise CheckpointError(
                    f"the ACM layer {name!r} replaces {part!r}, which is not a module of this {type(model).__name__}",
                    "correct the layer's name, or the number of transformer layers",
                )
        _check_widths(name, placed, [modules[part] for part in (name, *placed.emptied)])
    _check_apart(layers)
    del modules  # it would keep the weights of all replaced modules in memory
    for name, placed in layers.items():
        layer = ACMLayer(placed.spec)
        layer.emptied = placed.emptied
        model.set_submodule(name, layer)
        for part in placed.emptied:
            model.set_submodule(part, nn.Identity())
    disable_ffn_chunking(model)
    disable_encoder_fast_path(model)
    mark_padding(model, interface)


def _check_apart(layers: Mapping[str, PlacedLayer]) -> None:
    """Check that no module is replaced twice, alone or within another."""
    replaced = sorted(f"{part}." for name, placed in layers.items() for part in (name, *placed.emptied))
    for outer, inner in pairwise(replaced):  # sorted, so that a module is followed by its parts
        if inner.startswith(outer):
            raise CheckpointError(
                f"ACM layers replace both {outer[:-1]!r} and {inner[:-1]!r}, which overlap",
                "correct the names of the layers, or of their emptied modules",
            )


def _check_widths(name: str, placed: PlacedLayer, replaced: list[nn.Module]) -> None:
    shapes = [shape for part in replaced for module in part.modules() if (shape := linear_shape(module)) is not None]
    d = placed.spec.model_dim
    if any(shape.in_features == d for shape in shapes) and any(shape.out_features == d for shape in shapes):
        return
    if not shapes:
        kind = type(replaced[0]).__name__
        raise CheckpointError(
            f"the ACM layer {name!r} replaces a {kind} without linear maps", "give the name of an FFN or a projection"
        )
    reads, writes = shapes[0].in_features, shapes[-1].out_features
    width = reads if reads == writes else f"{reads} at its input and {writes} at its output"
    raise CheckpointError(
        f"the ACM layer {name!r} has D = {d}, but the model has width {width}",
        "the ACM layers and the other weights must come from the same model",
    )
