"""The activations in Triton: one formula with coefficients chosen at run time, so that one kernel serves all of them.

GELU, its tanh form and SiLU are v * sigmoid(2 s) = v / 2 * (1 + tanh(s)) with s odd, written as v * q(v^2). For GELU
q is a polynomial fitted to logit(Phi(v)) / (2 v), Phi the normal distribution. There are no branches: with branches
over five activations and erf, GEMM 1 was twice as large and spilled registers.

There are two precisions. GELU of hidden values that stay float32 is within 1e-6. For values that are rounded to 16
bits it is within 3e-5, from a shorter polynomial and the GPU's tanh instruction (relative error 2^-11, as much as
rounding to float16). That takes 1,336 instructions for the 64 values of a thread in GEMM 1 for sm_80, instead of 2,328.
"""

from __future__ import annotations

import triton
import triton.language as tl

GELU, GELU_TANH, RELU, SILU, IDENTITY = (tl.constexpr(i) for i in range(5))
"""Indices into :data:`acm_export.op.ACTIVATIONS`."""

FLOAT32, ROUNDED, ROUNDED_HARDWARE = (tl.constexpr(i) for i in range(3))
"""Precision of an activation: for float32; for 16 bits; for 16 bits with the GPU's tanh, not in the interpreter."""

_END = tl.constexpr(30.25)
"""v^2 where the fit ends: above |v| = 5.5 the sigmoid is 0 or 1 to within float32."""

_END_ROUNDED = tl.constexpr(20.0)
"""v^2 where the shorter fit ends."""


@triton.jit
def activate(v, activation, PRECISION: tl.constexpr):
    """Apply an activation to float32 values.

    Args:
        v: Tensor, float32.
        activation: Index into :data:`acm_export.op.ACTIVATIONS`, the same for the whole launch.
        PRECISION: FLOAT32, ROUNDED or ROUNDED_HARDWARE.

    Returns:
        float32, of the shape of ``v``.
    """
    smooth = _smooth(v, activation) if PRECISION == FLOAT32 else _smooth_rounded(v, activation, PRECISION)
    floor = tl.where(activation == RELU, 0.0, float("-inf"))
    linear = tl.maximum(v, floor, propagate_nan=tl.PropagateNan.ALL)
    return tl.where((activation == RELU) | (activation == IDENTITY), linear, smooth)


@triton.jit
def _smooth(v, activation):
    gelu = activation == GELU
    gelu_tanh = activation == GELU_TANH
    # 2 q. GELU: least weighted error over |v| <= 5.5. tanh form: 2 * sqrt(2 / pi) * (1 + 0.044715 v^2). SiLU: 1.
    q0 = tl.where(gelu, 1.5957684516906738, tl.where(gelu_tanh, 1.5957691216057308, 1.0))
    q1 = tl.where(gelu, 0.07266856729984283, tl.where(gelu_tanh, 0.07135481282638, 0.0))
    q2 = tl.where(gelu, -6.625998503295705e-05, 0.0)
    q3 = tl.where(gelu, -1.1048031592508778e-04, 0.0)
    q4 = tl.where(gelu, 7.938218914205208e-06, 0.0)
    q5 = tl.where(gelu, -2.668928118509939e-07, 0.0)
    q6 = tl.where(gelu, 3.611232868294678e-09, 0.0)
    square = tl.minimum(v * v, _END)
    q = ((((q6 * square + q5) * square + q4) * square + q3) * square + q2) * square + q1
    return v / (1.0 + tl.exp(-v * (q * square + q0)))


@triton.jit
def _smooth_rounded(v, activation, PRECISION: tl.constexpr):
    gelu = activation == GELU
    gelu_tanh = activation == GELU_TANH
    # The same coefficients as in cuda/activation.cuh.
    q0 = tl.where(gelu, 0.7975078639, tl.where(gelu_tanh, 0.7978845608, 0.5))
    q1 = tl.where(gelu, 0.03700566334, tl.where(gelu_tanh, 0.03567740814, 0.0))
    q2 = tl.where(gelu, -3.515194294e-04, 0.0)
    square = tl.minimum(v * v, _END_ROUNDED)
    s = v * ((q2 * square + q1) * square + q0)
    if PRECISION == ROUNDED_HARDWARE:
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [s], dtype=tl.float32, is_pure=True, pack=1)
    else:
        tanh = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * s))
    half = 0.5 * v
    return half * tanh + half
