"""Kernels for the tests. Imported only in the process that interprets."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.activation import activate
from acm_export.plugins.kernels.rounding import scaled_int8


@triton.jit
def activate_all(values, out, activation, PRECISION: tl.constexpr, SIZE: tl.constexpr):  # noqa: N803
    """``out = activate(values)``."""
    i = tl.arange(0, SIZE)
    tl.store(out + i, activate(tl.load(values + i), activation, PRECISION))


@triton.jit
def round_all(values, multipliers, zero, out, SIZE: tl.constexpr):  # noqa: N803
    """``out = scaled_int8(values, multipliers, zero)``."""
    i = tl.arange(0, SIZE)
    rounded = scaled_int8(tl.load(values + i), tl.load(multipliers + i), tl.load(zero).to(tl.int32))
    tl.store(out + i, rounded)
