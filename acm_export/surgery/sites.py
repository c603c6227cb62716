"""Sites: the dense modules of a model that an ACM layer can replace."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn
from transformers import activations

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.modules import ACMLayer
from acm_export.modules.flops import site_flops
from acm_export.surgery.family import gated_ffn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from acm_export.surgery.family import ModelFamily

FFN = "ffn"
QKVO = "qkvo"
_UNDER_RESIDUAL = (FFN, "o_proj")

_ACTIVATIONS: dict[str, tuple[type[nn.Module], ...]] = {
    "gelu": (activations.GELUActivation,),
    "gelu_tanh": (activations.GELUTanh, activations.NewGELUActivation, activations.FastGELUActivation),
    "relu": (nn.ReLU,),
    "silu": (nn.SiLU, activations.SiLUActivation),
    "identity": (nn.Identity,),
}


@dataclass(frozen=True)
class Site:
    """Dense modules that one ACM layer can replace.

    Args:
        place: Qualified name of the module that becomes the ACM layer.
        kind: ``ffn``, or the short name of a projection: q_proj, k_proj, v_proj, o_proj.
        modules: Names of the dense modules in the order of computation: up, activation, down; or one linear map.
        widths: Input and output widths of the linear maps.
        activation: The operator's name for the activation; None for projections and unsupported activations.
    """

    place: str
    kind: str
    modules: tuple[str, ...]
    widths: tuple[tuple[int, int], ...]
    activation: str | None

    @property
    def model_dim(self) -> int:
        """D, the width of input and output."""
        return self.widths[0][0]

    @property
    def flops(self) -> int:
        """FLOPs per token of the dense modules."""
        return site_flops(self.widths)

    @property
    def under_residual(self) -> bool:
        """Whether a residual connection bypasses the site, so that a token can skip it."""
        return self.kind in _UNDER_RESIDUAL


def find_sites(model: PreTrainedModel, family: ModelFamily) -> dict[str, tuple[str, ...]]:
    """Dense modules by place, in the order of computation."""
    return {place: names for place, (_, names) in _places(model, family).items()}


def select_sites(model: PreTrainedModel, family: ModelFamily, sites: str = FFN) -> tuple[Site, ...]:
    """Select sites of a model, in the order of the model.

    Args:
        model: Model that is dense at the selected sites.
        family: Family of the model.
        sites: Parts separated by commas: ``ffn``; ``qkvo`` for all four projections; the short name of one projection,
            such as ``q_proj``; or a pattern over the names of places, such as ``*.layers.[0-5].mlp``.

    Raises:
        UsageError: A part selects nothing; the message lists the available sites.
        CheckpointError: A selected place has an ACM layer, a gated FFN, or a linear map whose input and output widths
            differ.
    """
    places = _places(model, family)
    selected: set[str] = set()
    for part in (text.strip() for text in sites.split(",")):
        matching = {place for place, (kind, _) in places.items() if _matches(part, place, kind)}
        if not matching:
            kinds = (FFN, QKVO, *family.projections)
            shown = repr(part) if part else f"the empty part of {sites!r}"
            raise UsageError(
                f"{shown} selects no site of this {type(model).__name__}; available: {', '.join(kinds)}",
                f"choose one of these, or a pattern that matches one of {abridged(list(places))}",
            )
        selected |= matching
    return tuple(_site(model, place, kind, names) for place, (kind, names) in places.items() if place in selected)


def abridged(names: list[str]) -> str:
    """The first six names, and the total number of names."""
    return ", ".join(names[:6]) + (f", ... ({len(names)} in total)" if len(names) > 6 else "")


def _places(model: PreTrainedModel, family: ModelFamily) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and names of the dense modules by place."""
    places: dict[str, tuple[str, tuple[str, ...]]] = {}
    for index in range(getattr(model.config, family.num_layers)):
        layer, ffn = family.layer_path(model, index), family.ffn
        triple = tuple(f"{layer}.{path}" for path in (ffn.up, ffn.activation, ffn.down))
        places[f"{layer}.{ffn.place}"] = (FFN, triple)
        for kind, path in family.projections.items():
            places[f"{layer}.{path}"] = (kind, (f"{layer}.{path}",))
    return places


def _matches(part: str, place: str, kind: str) -> bool:
    return part == kind or (part == QKVO and kind != FFN) or fnmatchcase(place, part)


def _site(model: PreTrainedModel, place: str, kind: str, names: tuple[str, ...]) -> Site:
    if isinstance(model.get_submodule(place), ACMLayer):
        raise CheckpointError(f"{place} is already an ACM layer", "select other sites, or give the dense model")
    try:
        modules = [model.get_submodule(name) for name in names]
    except AttributeError as error:
        found = [f"{place}.{name}" for name, _ in model.get_submodule(place).named_modules()]
        gated = gated_ffn(found) is not None
        reason = "is a gated feed-forward network (SwiGLU), which is not supported yet" if gated else f"has {error}"
        raise CheckpointError(f"{place} {reason}", "select other sites") from error
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    widths = tuple((linear.in_features, linear.out_features) for linear in linears)
    if len(linears) != (2 if kind == FFN else 1):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise CheckpointError(f"{place} consists of {kinds}; expected linear maps", "select other sites")
    if widths[0][0] != widths[-1][1]:
        raise CheckpointError(
            f"{place} maps width {widths[0][0]} to {widths[-1][1]}; an ACM layer needs equal widths",
            "select other sites",
        )
    return Site(place, kind, names, widths, _activation(modules[1]) if kind == FFN else None)


def _activation(module: nn.Module) -> str | None:
    return next((name for name, types in _ACTIVATIONS.items() if isinstance(module, types)), None)
