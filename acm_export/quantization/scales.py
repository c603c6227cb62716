"""Arithmetic of int8 scales: weights by column, activations by mean squared error, and SmoothQuant's migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

Floats = np.ndarray
"""float32 arrays."""

ACTIVATION_LEVELS = 127
_COARSE: list[float] = np.geomspace(1.0, 0.02, 24).tolist()
"""Shares of the largest value that are tried first: an outlier can be fifty times as large as all other values."""
_FINE = 9
"""Number of shares that are tried around the best coarse one."""
_DEAD = np.float32(1e-8)
"""Largest absolute value of a channel or column that counts as zero, relative to the largest of all."""


@dataclass(frozen=True)
class HiddenScale:
    """Asymmetric scale of the hidden values of one learner.

    Args:
        multiplier: Multiplier before rounding.
        zero: Zero point, -128..127.
    """

    multiplier: np.float32
    zero: int


def weight_levels(bits: int) -> int:
    """Largest absolute value of a weight: 127 for 8 bits, 63 for 7."""
    return int(2 ** (bits - 1) - 1)


def quantize_columns(
    weight: Floats, levels: int, dtype: DTypeLike = np.float32
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a matrix with one scale for each column.

    Args:
        weight: float32 ``[rows, columns]``.
        levels: Largest absolute value.
        dtype: Type in which the file stores the scales.

    Returns:
        int8 ``[rows, columns]`` and scales float32 ``[columns]``, 1 for columns of zeros.
    """
    return quantize_axis(weight, levels, 0, dtype)


def quantize_axis(
    weight: Floats, levels: int, axis: int, dtype: DTypeLike = np.float32
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a matrix with one scale for each slice along ``axis``."""
    largest = np.abs(weight).max(axis, keepdims=True)
    scale = np.where(largest > np.finfo(np.float32).tiny * levels, largest / levels, 1).astype(np.float32)
    scale = as_stored(scale, dtype)
    values = np.clip(np.rint(weight / scale), -levels, levels).astype(np.int8)
    return values, np.squeeze(scale, axis)


def as_stored(scale: Floats, dtype: DTypeLike) -> NDArray[np.float32]:
    """Scales as a file stores them, in float32: rounded to a type, and at least its smallest positive value."""
    return np.asarray(np.maximum(scale.astype(dtype), np.finfo(dtype).smallest_subnormal), np.float32)


def migration(largest: Floats, weight: Floats, alpha: float) -> NDArray[np.float32]:
    """SmoothQuant's divisor of each input channel (arXiv 2211.10438, eq. 4), with a geometric mean of 1.

    Args:
        largest: Largest absolute activation of each channel, float32 ``[D]``.
        weight: Largest absolute weight of each channel, float32 ``[D]``.
        alpha: Share of the difficulty that moves to the weights; 0 scales by the weights alone.

    Returns:
        float32 ``[D]``; 1 for channels that are always 0 or that no weight reads.
    """
    alive = (largest > _DEAD * largest.max()) & (weight > _DEAD * weight.max())
    divisor = np.ones(len(largest), np.float64)
    if alive.any():
        divisor[alive] = largest[alive].astype(np.float64) ** alpha / weight[alive].astype(np.float64) ** (1 - alpha)
        divisor[alive] /= np.exp(np.log(divisor[alive]).mean())
    return divisor.astype(np.float32)


def symmetric_scale(sample: Floats, importance: Floats, largest: float) -> np.float32:
    """The scale of symmetric int8 with the smallest squared error.

    Args:
        sample: float32 ``[tokens, D]``.
        importance: Weight of each channel's squared error, float32 ``[D]``.
        largest: Largest absolute value of all tokens, which the sample may lack.
    """
    reach = np.float32(max(largest, float(np.abs(sample).max(initial=0))))
    step = reach / np.float32(ACTIVATION_LEVELS)
    share = best_share(lambda share: _symmetric_error(sample, importance, np.float32(step * share)))
    scale: np.float32 = np.float32(step) * np.float32(share)
    return scale


def best_share(error: Callable[[float], float]) -> float:
    """The share of the largest value, in (0, 1], with the smallest error: a coarse search, then a fine one.

    Args:
        error: Error of a share.
    """
    coarse = [error(share) for share in _COARSE]
    best = int(np.argmin(coarse))
    ends = _COARSE[max(best - 1, 0)], _COARSE[min(best + 1, len(_COARSE) - 1)]
    found = [(coarse[best], _COARSE[best])]
    found += [(error(share), share) for share in np.linspace(*ends, _FINE).tolist()]
    return min(found)[1]


def round_symmetric(sample: Floats, scale: np.float32) -> Floats:
    """int8 values of a sample, as float32: multiply by the reciprocal, round half to even, clamp."""
    return np.asarray(np.clip(np.rint(sample * (np.float32(1) / scale)), -128, 127), np.float32)


def _symmetric_error(sample: Floats, importance: Floats, scale: np.float32) -> float:
    difference = round_symmetric(sample, scale) * scale - sample
    return float(np.einsum("td,td->d", difference, difference) @ importance)


def hidden_scale(active: Floats, tokens: Floats, importance: Floats) -> HiddenScale:
    """The multiplier and zero point of one learner's hidden values with the smallest squared error.

    Args:
        active: Hidden values after the activation, float32 ``[tokens, h]``.
        tokens: Weight of each token's error, float32 ``[tokens]``.
        importance: Weight of each hidden value's squared error, float32 ``[h]``.
    """
    low, high = min(float(active.min(initial=0)), 0.0), max(float(active.max(initial=0)), 0.0)
    if high - low < np.finfo(np.float32).tiny * 255:
        return HiddenScale(np.float32(1), 0)

    def error(low: float, high: float) -> float:
        return _hidden_error(active, tokens, importance, _hidden(low, high))

    high *= best_share(lambda share: error(low, high * share))
    low *= best_share(lambda share: error(low * share, high))
    return _hidden(low, high)


def round_hidden(active: Floats, scale: HiddenScale) -> Floats:
    """int8 hidden values as float32, zero point included."""
    return np.asarray(np.clip(np.rint(active * scale.multiplier) + scale.zero, -128, 127), np.float32)


def _hidden(low: float, high: float) -> HiddenScale:
    multiplier = np.float32(255 / (high - low))
    return HiddenScale(multiplier, int(np.clip(np.rint(-128 - low * float(multiplier)), -128, 127)))


def _hidden_error(active: Floats, tokens: Floats, importance: Floats, scale: HiddenScale) -> float:
    difference = (round_hidden(active, scale) - scale.zero) / scale.multiplier - active
    return float(tokens @ (difference * difference) @ importance)
