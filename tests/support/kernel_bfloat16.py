"""Bugs of Triton's interpreter with bfloat16, and their fixes for the tests.

It keeps bfloat16 values as uint16: ``tl.dot`` multiplies those integers, and the conversion from float32 cuts bits off
where every GPU rounds to the nearest. Imported only where Triton interprets.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRITONS = {name: getattr(InterpreterBuilder, name) for name in ("create_dot", "cast_impl")}


def correct_bfloat16() -> None:
    """Fix both, until :func:`uncorrected`."""
    InterpreterBuilder.create_dot = _create_dot
    InterpreterBuilder.cast_impl = _cast


@contextmanager
def uncorrected() -> Iterator[None]:
    """Triton without the fixes."""
    for name, function in _TRITONS.items():
        setattr(InterpreterBuilder, name, function)
    yield
    correct_bfloat16()


def product(a: np.ndarray, b: np.ndarray, *, corrected: bool = True) -> np.ndarray:
    """``a b`` of bfloat16 matrices by ``tl.dot``, float32."""
    out = torch.empty(a.shape[0], b.shape[1])
    tensors = [torch.from_numpy(m.view(np.int16)).view(torch.bfloat16) for m in (a, b)]
    with _as_wanted(corrected):
        _product[(1,)](*tensors, out, *out.shape, a.shape[1])
    return out.numpy()


def rounded(values: np.ndarray, *, corrected: bool = True) -> np.ndarray:
    """float32 values converted to bfloat16."""
    out = torch.empty(len(values), dtype=torch.bfloat16)
    with _as_wanted(corrected):
        _round[(1,)](torch.from_numpy(values), out, len(values))
    return out.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


@contextmanager
def _as_wanted(corrected: bool) -> Iterator[None]:
    if corrected:
        yield
    else:
        with uncorrected():
            yield


@triton.jit
def _product(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):  # noqa: N803
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    tl.store(out + m * N + n, tl.dot(tl.load(a + m * K + k[None, :]), tl.load(b + k[:, None] * N + n)))


@triton.jit
def _round(values, out, SIZE: tl.constexpr):  # noqa: N803
    i = tl.arange(0, SIZE)
    tl.store(out + i, tl.load(values + i).to(tl.bfloat16))


def _create_dot(builder: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
    return _TRITONS["create_dot"](builder, _widened(a), _widened(b), *rest)


def _widened(handle: TensorHandle) -> TensorHandle:
    if handle.dtype.scalar != tl.bfloat16 or handle.data.dtype != np.uint16:
        return handle
    return TensorHandle(handle.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)


def _cast(builder: Any, source: TensorHandle, to: Any) -> TensorHandle:
    if (source.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
        return _TRITONS["cast_impl"](builder, source, to)
    return TensorHandle(source.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
