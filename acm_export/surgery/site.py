"""Sites: the dense modules of a model that an ACM layer can replace, and what was left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.modules.flops import site_flops
from acm_export.surgery.linear_maps import LAST, LinearMap

if TYPE_CHECKING:
    import torch
    from torch import nn

FFN = "ffn"


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
    def flops(self) -> int:
        """FLOPs per token of the dense modules."""
        return site_flops(self.widths)


@dataclass(frozen=True)
class Left:
    """A part of the model that looks like a site, but is not one.

    Args:
        name: Qualified name of the module, or of the first linear map.
        reason: Why an ACM layer cannot or should not replace it.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """Result of a survey.

    Args:
        sites: Sites in the order of execution.
        left: What was left, in the order of execution.
    """

    sites: tuple[Site, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True)
class SiteWeights:
    """Weights of a site in the layout of ``nn.Linear``: views of the model's parameters.

    Args:
        w1: Weight of the up projection ``[width, D]``.
        b1: Bias of the up projection ``[width]``, or None.
        w2: Weight of the down projection ``[D, width]``.
        b2: Bias of the down projection ``[D]``, or None.
        v1: Weight of the branch that multiplies the activation ``[width, D]``; None unless the FFN is gated.
        c1: Bias of that branch ``[width]``, or None.
    """

    w1: torch.Tensor
    b1: torch.Tensor | None
    w2: torch.Tensor
    b2: torch.Tensor | None
    v1: torch.Tensor | None = None
    c1: torch.Tensor | None = None


def ffn_weights(model: nn.Module, site: Site) -> SiteWeights:
    """Read the weights of a feed-forward site; the weights of a projection are ``site.up.weights(model)``.

    Raises:
        ValueError: The site is a projection.
    """
    if site.down is None:
        raise ValueError(f"{site.place} is a projection, not a feed-forward network")
    value = (None, None) if site.value is None else site.value.weights(model)
    return SiteWeights(*site.up.weights(model), *site.down.weights(model), *value)
