"""Activations of the learners in float32 for whole arrays, within 2e-6: fast enough for samples of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_P = 0.3275911


def activated(name: str, u: NDArray[np.float32]) -> NDArray[np.float32]:
    """The activation ``name`` of float32 values, elementwise (docs/op.md, "Attributes")."""
    if name == "gelu":
        return np.asarray(u * np.float32(0.5) * (1 + _erf(u * np.float32(0.5**0.5))), np.float32)
    if name == "gelu_tanh":
        inner = np.float32((2 / np.pi) ** 0.5) * (u + np.float32(0.044715) * u**3)
        return np.asarray(u * np.float32(0.5) * (1 + np.tanh(inner)), np.float32)
    if name == "relu":
        return np.maximum(u, 0)
    if name == "silu":
        with np.errstate(over="ignore"):
            return np.asarray(u / (1 + np.exp(-u)), np.float32)
    return u


def _erf(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    size = np.abs(v)
    t = 1 / (1 + np.float32(_ERF_P) * size)
    total = np.zeros_like(t)
    for coefficient in reversed(_ERF):
        total = (total + np.float32(coefficient)) * t
    return np.asarray(np.copysign(1 - total * np.exp(-size * size), v), np.float32)
