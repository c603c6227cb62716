"""The int8 operators as a loop over tokens: integers where docs/op.md requires integers, float64 elsewhere.

The steps are public, because ``verify`` compares an implementation with them one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.op.quantized_signature import SMALLEST_RANGE
from acm_export.op.reference import activate
from acm_export.op.routing import learner_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.op.quantized_signature import QuantizedSignature

Array = Any  # an array of any float dtype, including the bfloat16 of ml_dtypes


def quantize(values: NDArray[np.float32], multiplier: NDArray[np.float32] | np.float32) -> NDArray[np.int8]:
    """``clamp(round_half_even(values * multiplier), -128, 127)``, one float32 multiplication; NaN becomes 0.

    Args:
        values: float32, any shape.
        multiplier: float32, broadcast to ``values``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(values, np.float32) * np.asarray(multiplier, np.float32)
    return np.clip(np.rint(np.nan_to_num(scaled, nan=0.0)), -128, 127).astype(np.int8)


def token_range(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest absolute value over the last axis, kept as an axis of size 1, at least ``SMALLEST_RANGE``."""
    largest = np.abs(np.asarray(values, np.float32)).max(axis=-1, keepdims=True)
    return np.asarray(np.maximum(largest, np.float32(SMALLEST_RANGE)), np.float32)


def quantize_tokens(
    x: Array, x_mult: NDArray[np.float32], signature: QuantizedSignature
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Quantise the tokens: q int8 ``[..., D]``, and the factor ``[..., 1]`` that u is multiplied with (1 if static)."""
    values = np.asarray(x).astype(np.float32)
    if not signature.dynamic:
        return quantize(values, x_mult), np.ones((*values.shape[:-1], 1))
    with np.errstate(over="ignore", invalid="ignore"):
        values = values * np.asarray(x_mult, np.float32)
        largest = token_range(values)
    return quantize(values, np.float32(127) / largest), largest.astype(np.float64) / 127


def quantized_gated_learners(
    x: Array,
    gate_logits: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    x_mult: NDArray[np.float32],
    w1: NDArray[np.int8],
    s1: NDArray[np.float32],
    b1: NDArray[np.float32],
    h_mult: NDArray[np.float32],
    h_zero: NDArray[np.int8],
    w2: NDArray[np.int8],
    s2: NDArray[np.float32],
    b2: NDArray[np.float32],
    signature: QuantizedSignature,
    *,
    v1: NDArray[np.int8] | None = None,
    t1: NDArray[np.float32] | None = None,
    c1: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Evaluate the operator one token and one learner at a time.

    Args:
        x: ``[..., D]``, any float dtype.
        gate_logits: float32 ``[..., C]``.
        thresholds: float32 ``[N]``.
        x_mult: float32 ``[D]``.
        w1: int8 ``[D, N*h]``.
        s1: float32 ``[N*h]``.
        b1: float32 ``[N*h]``.
        h_mult: float32 ``[N]``.
        h_zero: int8 ``[N]``.
        w2: int8 ``[N*h, D]``.
        s2: float32 ``[D]``.
        b2: float32 ``[N+1, D]``; row k is the output bias of a token with count k, with the zero points folded in.
        signature: The operator and its attributes.
        v1: int8 ``[D, N*h]``, for a signature with ``glu``, as t1 and c1.
        t1: float32 ``[N*h]``.
        c1: float32 ``[N*h]``.

    Returns:
        y, float64 ``[..., D]``, and counts, int32 ``[...]``.
    """
    q, factors = quantize_tokens(x, x_mult, signature)
    counts = learner_counts(gate_logits, thresholds, signature.min_learners)
    hidden = w1.shape[1] // signature.num_learners
    y = np.empty(q.shape, np.float64)
    for token in np.ndindex(counts.shape):
        total = np.zeros(q.shape[-1], np.float64)
        for learner in range(counts[token]):
            part = slice(learner * hidden, (learner + 1) * hidden)
            active = activate(
                signature.activation, hidden_inputs(q[token], factors[token], w1[:, part], s1[part], b1[part])
            )
            if v1 is not None and t1 is not None and c1 is not None:
                active = active * hidden_inputs(q[token], factors[token], v1[:, part], t1[part], c1[part])
            qh, factor = quantize_hidden(active, h_mult[learner], h_zero[learner], signature)
            total += factor * (qh.astype(np.int64) @ w2[part].astype(np.int64))
        y[token] = total * s2.astype(np.float64) + b2[counts[token]]
    return y, counts


def hidden_inputs(
    q: NDArray[np.int8],
    factor: NDArray[np.float64],
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> NDArray[np.float64]:
    """An up projection of quantised tokens, float64 ``[..., h]``: exact integer sums, then scale and bias."""
    sums = q.astype(np.int64) @ weight.astype(np.int64)
    return sums * factor * scale.astype(np.float64) + bias.astype(np.float64)


def quantize_hidden(
    active: NDArray[np.float64], h_mult: np.float32, h_zero: np.int8, signature: QuantizedSignature
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Quantise hidden values ``[..., h]`` of one learner: qh int8, and the factor ``[..., 1]`` of its sums."""
    with np.errstate(over="ignore"):
        values = active.astype(np.float32)
    if not signature.dynamic:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(np.nan_to_num(values * np.float32(h_mult), nan=0.0)) + np.float32(h_zero)
        return np.clip(scaled, -128, 127).astype(np.int8), np.ones((*values.shape[:-1], 1))
    largest = token_range(values)
    return quantize(values, np.float32(127) / largest), largest.astype(np.float64) / 127
