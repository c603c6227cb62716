"""How large the ACM layer at a site is to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.modules import ACMSpec
from acm_export.modules.flops import linear_flops

if TYPE_CHECKING:
    from acm_export.surgery.sites import Site

GATE_SHARE = 0.01
"""Of the FLOPs of the dense modules at full size (arXiv 2312.10193: gates are to be negligible)."""

_GATE_STEP = 8
"""Hidden widths of gates are multiples of it; at D = 768 that is 1.05% of an FFN and of a projection alike."""

_HIDDEN_STEP, _STEPPED_FROM = 16, 128
"""The kernels' fast loads need N*h to be divisible by 16. For smaller h a step would change the cost much."""

_PROJECTION_ACTIVATION = "gelu"


def spec_for(site: Site, num_learners: int, flops_factor: float = 1.0, min_learners: int | None = None) -> ACMSpec:
    """N learners that together cost what the dense modules at a site cost, or a multiple of it, and a gate.

    Args:
        site: The dense modules.
        num_learners: N.
        flops_factor: FLOPs of all learners ÷ those of the dense modules; what rounding h makes of it says
            :func:`acm_export.modules.flops.learners_share`.
        min_learners: Learners that always run; by default 0 under a residual connection and 1 elsewhere.

    Returns:
        Sizes, with the site's activation, or gelu where the operator has none like it or the site is a projection. The
        gate has one hidden layer with the same activation, of about 1% of the site's FLOPs but at least 8 units.

    Raises:
        UsageError: The factor is not above 0, or leaves a learner no hidden unit.
        OpError: ``num_learners`` is out of range.
    """
    if not 0 < flops_factor < float("inf"):
        raise UsageError(
            f"the FLOPs factor is {flops_factor}; it must be above 0", "1 keeps the cost of the dense model"
        )
    d = site.model_dim
    hidden = site.flops * flops_factor / (2 * linear_flops(d, 1) * max(num_learners, 1))
    step = _HIDDEN_STEP if hidden >= _STEPPED_FROM else 1
    width = round(hidden / step) * step
    if not width:
        raise UsageError(
            f"{site.place}: {num_learners} learners of {flops_factor:g} times the FLOPs of the dense modules have "
            f"{hidden:.2f} hidden units each",
            "take fewer learners or a larger factor",
        )
    activation = site.activation or _PROJECTION_ACTIVATION
    least = (0 if site.under_residual else 1) if min_learners is None else min_learners
    choices = num_learners - least + 1
    per_unit = linear_flops(d, 1) + linear_flops(1, choices)
    gate = max(_GATE_STEP, round(GATE_SHARE * site.flops / per_unit / _GATE_STEP) * _GATE_STEP)
    return ACMSpec(d, num_learners, width, least, activation, (gate,), activation)
