"""Scales of the learners of one ACM layer (docs/op.md, "The int8 operator")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.onnx_file.quantization.learners import QuantizedLearners
from acm_export.quantization.activations import activated
from acm_export.quantization.dense_scales import relative_error
from acm_export.quantization.scales import (
    hidden_scale,
    migration,
    quantize_columns,
    round_hidden,
    symmetric_scale,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.op.signature import Signature
    from acm_export.quantization.observed import Observed
    from acm_export.quantization.options import Options

ENOUGH_TOKENS = 64
"""With fewer sampled tokens that run a learner, all sampled tokens set its scale."""


@dataclass(frozen=True)
class FloatLearners:
    """The weights of one ACM layer in float32, as in docs/op.md.

    Args:
        w1: ``[D, N*h]``.
        b1: ``[N*h]``.
        w2: ``[N*h, D]``.
        b2: ``[N+1, D]``.
    """

    w1: NDArray[np.float32]
    b1: NDArray[np.float32]
    w2: NDArray[np.float32]
    b2: NDArray[np.float32]


@dataclass(frozen=True)
class LayerResult:
    """int8 weights and scales of a layer, and the error that they cause.

    Args:
        learners: Weights and scales.
        error: Squared error of the learners' sum over the sampled tokens, relative to the sum; None without data.
        unused: Numbers of learners whose hidden values are 0 for every sampled token.
    """

    learners: QuantizedLearners
    error: float | None
    unused: tuple[int, ...] = ()


def static_learners(weights: FloatLearners, signature: Signature, seen: Observed, options: Options) -> LayerResult:
    """Fixed scales for a layer.

    Args:
        weights: The layer's weights.
        signature: Attributes of the layer.
        seen: Tokens of the layer, with their learner counts.
        options: How to quantise.

    Returns:
        The int8 layer; biases are corrected for the mean error on the sampled tokens.
    """
    n, hidden = signature.num_learners, weights.w1.shape[1] // signature.num_learners
    divisor = _divisor(weights.w1, seen, options)
    values, w1 = seen.sample / divisor, weights.w1 * divisor[:, None]
    scale = symmetric_scale(values, np.square(w1).sum(1), float((seen.largest / divisor).max()))
    x_mult = (1 / (scale * divisor)).astype(np.float32)
    q = np.clip(np.rint(seen.sample * x_mult), -128, 127)
    w1_int8, w1_scale = quantize_columns(w1, options.levels)
    s1 = (w1_scale * scale).astype(np.float32)
    runs = _runs(seen, n)
    b1, b2 = weights.b1.copy(), weights.b2.copy()
    scaled_w2 = np.empty_like(weights.w2)
    scales, exact, rounded = [], [], []
    for learner in range(n):
        part, tokens = slice(learner * hidden, (learner + 1) * hidden), runs[learner]
        true_u = seen.sample @ weights.w1[:, part]
        u = (q @ w1_int8[:, part].astype(np.float32)) * s1[part]
        b1[part] += tokens @ (true_u - u) / tokens.sum()
        active = activated(signature.activation, u + b1[part])
        found = hidden_scale(active, tokens, np.square(weights.w2[part]).sum(1))
        scales.append(found)
        scaled_w2[part] = weights.w2[part] / found.multiplier
        exact.append(activated(signature.activation, true_u + weights.b1[part]))
        rounded.append(round_hidden(active, found) - found.zero)
    w2_int8, s2 = quantize_columns(scaled_w2, options.levels)
    sums, total = np.zeros((2, len(seen.sample), weights.w2.shape[1]), np.float32)
    for learner, found in enumerate(scales):
        part, tokens = slice(learner * hidden, (learner + 1) * hidden), runs[learner]
        true_y = exact[learner] @ weights.w2[part]
        y = (rounded[learner] @ w2_int8[part].astype(np.float32)) * s2
        shift = tokens @ (true_y - y) / tokens.sum()
        b2[learner + 1 :] += shift - s2 * (found.zero * w2_int8[part].sum(0, dtype=np.int64))
        ran = (runs_exactly(seen, learner))[:, None]
        sums += ran * (y + shift)
        total += ran * true_y
    learners = QuantizedLearners(
        x_mult=x_mult,
        w1=w1_int8,
        s1=s1,
        b1=b1,
        h_mult=np.array([found.multiplier for found in scales], np.float32),
        h_zero=np.array([found.zero for found in scales], np.int8),
        w2=w2_int8,
        s2=s2,
        b2=b2.astype(np.float32),
    )
    unused = tuple(index + 1 for index, active in enumerate(exact) if not active.any())
    return LayerResult(learners, relative_error(sums, total), unused)


def dynamic_learners(
    weights: FloatLearners, signature: Signature, seen: Observed | None, options: Options
) -> LayerResult:
    """int8 weights for a layer whose tokens are scaled at run time; migrated if there are data.

    Args:
        weights: The layer's weights.
        signature: Attributes of the layer.
        seen: Tokens of the layer, with their learner counts; None without data.
        options: How to quantise.
    """
    n = signature.num_learners
    divisor = np.ones(len(weights.w1), np.float32) if seen is None else _divisor(weights.w1, seen, options)
    w1, s1 = quantize_columns(weights.w1 * divisor[:, None], options.levels)
    w2, s2 = quantize_columns(weights.w2, options.levels)
    learners = QuantizedLearners(
        x_mult=(1 / divisor).astype(np.float32),
        w1=w1,
        s1=s1,
        b1=weights.b1,
        h_mult=np.ones(n, np.float32),
        h_zero=np.zeros(n, np.int8),
        w2=w2,
        s2=s2,
        b2=weights.b2,
    )
    return LayerResult(learners, None if seen is None else _dynamic_error(weights, learners, signature, seen))


def runs_exactly(seen: Observed, learner: int) -> NDArray[np.float32]:
    """1 for the sampled tokens that run a learner (numbered from 0), 0 for the others."""
    if seen.counts is None:
        raise ValueError("the tokens of an ACM layer have no learner counts")
    return (seen.counts > learner).astype(np.float32)


def _runs(seen: Observed, learners: int) -> list[NDArray[np.float32]]:
    """Weight of each sampled token for each learner's scales."""
    runs = [runs_exactly(seen, learner) for learner in range(learners)]
    return [tokens if tokens.sum() >= ENOUGH_TOKENS else np.ones_like(tokens) for tokens in runs]


def _divisor(w1: NDArray[np.float32], seen: Observed, options: Options) -> NDArray[np.float32]:
    if not options.migration:
        return np.ones(len(w1), np.float32)
    return migration(seen.largest, np.abs(w1).max(1), options.migration)


def _dynamic_error(weights: FloatLearners, learners: QuantizedLearners, signature: Signature, seen: Observed) -> float:
    """As the operator computes it with ``dynamic`` = 1."""
    hidden = weights.w1.shape[1] // signature.num_learners
    q, factor = _rounded_rows(seen.sample * learners.x_mult)
    sums, total = np.zeros((2, len(q), weights.w2.shape[1]), np.float32)
    for learner in range(signature.num_learners):
        part, ran = slice(learner * hidden, (learner + 1) * hidden), runs_exactly(seen, learner)[:, None]
        u = (q @ learners.w1[:, part].astype(np.float32)) * factor * learners.s1[part] + weights.b1[part]
        qh, scale = _rounded_rows(activated(signature.activation, u))
        sums += ran * scale * (qh @ learners.w2[part].astype(np.float32)) * learners.s2
        exact = activated(signature.activation, seen.sample @ weights.w1[:, part] + weights.b1[part])
        total += ran * (exact @ weights.w2[part])
    return relative_error(sums, total)


def _rounded_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    largest = np.maximum(np.abs(values).max(-1, keepdims=True), np.float32(1e-30))
    return np.rint(values * (np.float32(127) / largest)), largest / np.float32(127)
