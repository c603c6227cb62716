"""Rounding of float32 to int8 (docs/op.md, "The int8 operator"): multiply, clamp, round half to even."""

from __future__ import annotations

import triton
import triton.language as tl

_MAGIC = tl.constexpr(12582912.0)
"""1.5 * 2^23: a float32 next to it is a whole number, and its lowest byte is that number minus this one in int8."""


@triton.jit
def scaled_int8(values, multiplier, zero):
    """``clamp(round(values * multiplier) + zero, -128, 127)``; NaN becomes any int8.

    The bounds are whole numbers, so clamping before rounding gives the same. It also stands between the product and
    the sum, which a compiler could otherwise contract to one rounding.

    Args:
        values: Tensor, float32.
        multiplier: float32, broadcast to ``values``.
        zero: int32, one number.

    Returns:
        int8, of the shape of ``values``.
    """
    low, high = tl.cast(-128 - zero, tl.float32), tl.cast(127 - zero, tl.float32)
    clamped = tl.minimum(tl.maximum(values * multiplier, low), high)
    return ((clamped + _MAGIC).to(tl.int32, bitcast=True) + zero).to(tl.int8)
