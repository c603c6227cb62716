"""The size of the ACM layer at a site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.modules import ACMSpec
from acm_export.modules.flops import linear_flops
from acm_export.surgery.linear_maps import CHANNELS_FIRST

if TYPE_CHECKING:
    from acm_export.surgery.sites import Site

GATE_SHARE = 0.01
"""FLOPs of a gate ÷ FLOPs of the dense modules (arXiv 2312.10193: the cost of gates must be negligible)."""

_GATE_STEP = 8
"""Hidden widths of gates are multiples of this; at D = 768 a gate has 1.05% of the FLOPs of an FFN or projection."""

_HIDDEN_STEP, _STEPPED_FROM = 16, 128
"""The kernels' fast loads need N*h to be divisible by 16. Below 128, rounding h to 16 changes the cost too much."""

_PROJECTION_ACTIVATION = "gelu"


def spec_for(site: Site, num_learners: int, flops_factor: float = 1.0, min_learners: int | None = None) -> ACMSpec:
    """Size an ACM layer so that all its learners together cost a given multiple of the dense modules at a site.

    Args:
        site: Dense modules to replace.
        num_learners: N.
        flops_factor: FLOPs of all learners ÷ FLOPs of the dense modules, up to the rounding of h;
            :func:`acm_export.modules.flops.learners_share` gives the exact ratio.
        min_learners: Learners that always run; by default 0 under a residual connection and 1 elsewhere.

    Returns:
        The layer's description, with the site's activation, or gelu for projections and unsupported activations. The
        gate has one hidden layer with the same activation: about 1% of the site's FLOPs, and at least 8 units.

    Raises:
        UsageError: The factor is not above 0, or so small that a learner has no hidden units.
        OpError: ``num_learners`` is out of range.
    """
    if not 0 < flops_factor < float("inf"):
        raise UsageError(
            f"the FLOPs factor is {flops_factor}; it must be above 0", "1 gives the cost of the dense model"
        )
    d = site.model_dim
    hidden = site.flops * flops_factor / ((2 if site.value is None else 3) * linear_flops(d, 1) * max(num_learners, 1))
    step = _HIDDEN_STEP if hidden >= _STEPPED_FROM else 1
    width = round(hidden / step) * step
    if not width:
        raise UsageError(
            f"{site.place}: {num_learners} learners with {flops_factor:g} times the FLOPs of the dense modules have "
            f"{hidden:.2f} hidden units each",
            "choose fewer --learners or a larger --flops-factor",
        )
    activation = site.activation or _PROJECTION_ACTIVATION
    always = (0 if site.residual else 1) if min_learners is None else min_learners
    choices = num_learners - always + 1
    per_unit = linear_flops(d, 1) + linear_flops(1, choices)
    gate = max(_GATE_STEP, round(GATE_SHARE * site.flops / per_unit / _GATE_STEP) * _GATE_STEP)
    return ACMSpec(
        d,
        num_learners,
        width,
        always,
        activation,
        (gate,),
        activation,
        glu=site.value is not None,
        channels_first=site.axis == CHANNELS_FIRST,
    )
