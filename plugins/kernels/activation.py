"""The op's activations in Triton: one formula with coefficients chosen at run time, so one kernel serves all of them.

GELU, its tanh form and SiLU are v * sigmoid(s(v)) with s odd; their s is written as v * q(v^2). For GELU q is a
polynomial fitted to logit(Phi(v)) / v, Phi the normal distribution; GELU is then within 1e-6 of its value (tested).
There are no branches: with branches over five activations and erf, GEMM 1 was twice as large and spilled registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

GELU, GELU_TANH, RELU, SILU, IDENTITY = (tl.constexpr(i) for i in range(5))
"""Indices into :data:`acm_export.op.ACTIVATIONS`."""

_END = tl.constexpr(30.25)
"""v^2 where the fit ends: beyond |v| = 5.5 the sigmoid is 0 or 1 to within float32."""


@triton.jit
def activate(v, activation):
    """Apply an activation to float32 values.

    Args:
        v: Tensor, float32.
        activation: Index into :data:`acm_export.op.ACTIVATIONS`, the same for the whole launch.

    Returns:
        float32, of the shape of ``v``.
    """
    gelu = activation == GELU
    gelu_tanh = activation == GELU_TANH
    # GELU: least weighted error over |v| <= 5.5. tanh form: 2 * sqrt(2 / pi) * (1 + 0.044715 v^2). SiLU: 1.
    q0 = tl.where(gelu, 1.5957684516906738, tl.where(gelu_tanh, 1.5957691216057308, 1.0))
    q1 = tl.where(gelu, 0.07266856729984283, tl.where(gelu_tanh, 0.07135481282638, 0.0))
    q2 = tl.where(gelu, -6.625998503295705e-05, 0.0)
    q3 = tl.where(gelu, -1.1048031592508778e-04, 0.0)
    q4 = tl.where(gelu, 7.938218914205208e-06, 0.0)
    q5 = tl.where(gelu, -2.668928118509939e-07, 0.0)
    q6 = tl.where(gelu, 3.611232868294678e-09, 0.0)
    square = tl.minimum(v * v, _END)
    q = ((((q6 * square + q5) * square + q4) * square + q3) * square + q2) * square + q1
    smooth = v / (1.0 + tl.exp(-v * (q * square + q0)))
    floor = tl.where(activation == RELU, 0.0, float("-inf"))
    linear = tl.maximum(v, floor, propagate_nan=tl.PropagateNan.ALL)
    return tl.where((activation == RELU) | (activation == IDENTITY), linear, smooth)
