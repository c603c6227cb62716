"""Sites: the dense modules of a model that an ACM layer can replace, and what was left."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from acm_export.base.documentation import page
from acm_export.base.errors import UsageError
from acm_export.modules.ffn_weights import FFNWeights
from acm_export.modules.flops import site_flops
from acm_export.op.signature import ACTIVATIONS
from acm_export.surgery.linear_maps import LAST, LinearMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

FFN = "ffn"
QKVO = "qkvo"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_NUMBERS = re.compile(r"\d+(?=\.|$)")


@dataclass(frozen=True)
class Site:
    """Dense modules that one ACM layer can replace.

    Args:
        place: Qualified name of the module that becomes the ACM layer.
        kind: ``ffn``, or the short name of a projection: q_proj, k_proj, v_proj, o_proj.
        up: Linear map in front of the activation; of a projection, its only linear map.
        down: Linear map behind the activation; None for a projection.
        value: Linear map of the branch that multiplies the activation in a gated FFN; None elsewhere.
        activation: The operator's name for the activation; None for projections and for activations it does not have.
        scale: The site applies ``act(scale * x) / scale``, for QuickGELU as silu; 1 elsewhere.
        residual: Whether a residual connection bypasses the site, so that a token can skip it.
        emptied: Names of the modules outside ``place`` that become ``nn.Identity``.
        axis: Axis of the features: -1, or 1 where the site consists of 1x1 convolutions.
    """

    place: str
    kind: str
    up: LinearMap
    down: LinearMap | None = None
    value: LinearMap | None = None
    activation: str | None = None
    scale: float = 1.0
    residual: bool = False
    emptied: tuple[str, ...] = ()
    axis: int = LAST

    @property
    def linear_maps(self) -> tuple[LinearMap, ...]:
        """The linear maps: up, value, down; those that the site has."""
        return tuple(part for part in (self.up, self.value, self.down) if part is not None)

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Input and output widths of the linear maps."""
        return tuple((part.in_features, part.out_features) for part in self.linear_maps)

    @property
    def model_dim(self) -> int:
        """D, the width of input and output."""
        return self.up.in_features

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden values of an FFN; of a projection, of its input."""
        return self.up.in_features if self.down is None else self.down.in_features

    @property
    def replaced_activation(self) -> bool:
        """Whether gelu replaces the activation of an FFN, because the operator does not have it."""
        return self.kind == FFN and self.activation is None

    @property
    def flops(self) -> int:
        """FLOPs per token of the dense modules."""
        return site_flops(self.widths)


@dataclass(frozen=True)
class Left:
    """A part of the model that looks like a site, but is not one.

    Args:
        name: Qualified name of the module, or of the first linear map.
        reason: Why an ACM layer cannot or should not replace it.
        kind: ``ffn`` or ``qkvo``.
    """

    name: str
    reason: str
    kind: str = FFN


@dataclass(frozen=True)
class Survey:
    """Result of a survey.

    Args:
        sites: Sites in the order of execution.
        left: What was left, in the order of execution.
        linear_maps: Number of linear maps in the forward pass.
    """

    sites: tuple[Site, ...]
    left: tuple[Left, ...]
    linear_maps: int


def ffn_weights(model: nn.Module, site: Site) -> FFNWeights:
    """Read the weights of a feed-forward site; those of a projection are ``site.up.weights(model)``.

    Raises:
        ValueError: The site is a projection.
    """
    if site.down is None:
        raise ValueError(f"{site.place} is a projection, not a feed-forward network")
    (w1, b1), (w2, b2) = site.up.weights(model), site.down.weights(model)
    v1, c1 = (None, None) if site.value is None else site.value.weights(model)
    return FFNWeights(w1, b1, w2, b2, v1, c1, site.scale)


def select_sites(found: Survey, sites: str = FFN) -> tuple[Site, ...]:
    """Select sites of a survey, in the order of execution.

    Args:
        found: Sites of a model.
        sites: Parts separated by commas: ``ffn``; ``qkvo`` for all four projections; the short name of one projection,
            such as ``q_proj``; or a pattern over the names of places, such as ``*.layers.[0-5].mlp``.

    Raises:
        UsageError: A part selects nothing; the message lists the available sites and says what was left and why.
    """
    selected: set[str] = set()
    for part in (text.strip() for text in sites.split(",")):
        matching = {site.place for site in found.sites if _matches(part, site)}
        if not matching:
            raise UsageError(*_nothing(found, part, sites))
        selected |= matching
    return tuple(site for site in found.sites if site.place in selected)


def abridged(names: list[str]) -> str:
    """The first six names, and the total number of names."""
    return ", ".join(names[:6]) + (f", ... ({len(names)} in total)" if len(names) > 6 else "")


def replaced_activations(sites: Iterable[Site]) -> str | None:
    """Say at which sites gelu replaces the activation; None if it replaces none."""
    places = [site.place for site in sites if site.replaced_activation]
    if not places:
        return None
    patterns = abridged(list(dict.fromkeys(_NUMBERS.sub("*", place) for place in places)))
    return (
        f"the activation of {len(places)} site{'s' if len(places) > 1 else ''} ({patterns}) is not one of "
        f"{', '.join(ACTIVATIONS)}; gelu is used instead, so the ACM model can equal its teacher only after training"
    )


def _matches(part: str, site: Site) -> bool:
    return part == site.kind or (part == QKVO and site.kind != FFN) or fnmatchcase(site.place, part)


def _nothing(found: Survey, part: str, sites: str) -> tuple[str, str]:
    """Message and hint where a part selects nothing."""
    shown = repr(part) if part else f"the empty part of {sites!r}"
    reasons = "".join(f"; {line}" for line in grouped([item for item in found.left if _concerns(part, item)]))
    if not found.sites:
        looked_at = reasons or (
            f"; none of its {found.linear_maps} linear maps is followed by an activation, another linear map and a "
            "residual connection"
        )
        return (
            f"{shown} selects no site: the model has none{looked_at}",
            f"see the section Sites of {page('families.md')}",
        )
    kinds = [kind for kind in (FFN, *PROJECTIONS) if any(site.kind == kind for site in found.sites)]
    if any(kind != FFN for kind in kinds):
        kinds.insert(kinds.count(FFN), QKVO)
    return (
        f"{shown} selects no site of this model; available: {', '.join(kinds)}{reasons}",
        f"choose one of these, or a pattern that matches one of {abridged([site.place for site in found.sites])}",
    )


def _concerns(part: str, item: Left) -> bool:
    kind = QKVO if part in PROJECTIONS else part
    return kind == item.kind or fnmatchcase(item.name, part)


def grouped(left: Sequence[Left]) -> list[str]:
    """One line for all parts that were left for the same reason, with ``*`` for the number of the layer."""
    groups = Counter((_NUMBERS.sub("*", item.name), re.sub(r"\.\d+(?=[. ),;]|$)", ".*", item.reason)) for item in left)
    return [f"{name}{f' ({count} times)' if count > 1 else ''}: {reason}" for (name, reason), count in groups.items()]
