"""Kernels for the tests. Imported only in the process that interprets."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.activation import activate


@triton.jit
def activate_all(values, out, activation, PRECISION: tl.constexpr, SIZE: tl.constexpr):  # noqa: N803
    """``out = activate(values)``."""
    i = tl.arange(0, SIZE)
    tl.store(out + i, activate(tl.load(values + i), activation, PRECISION))
