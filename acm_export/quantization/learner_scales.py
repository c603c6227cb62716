"""Scales of the learners of one ACM layer (docs/op.md, "The int8 operator")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from acm_export.onnx_file.quantization.learners import QuantizedLearners
from acm_export.op.quantized_reference import token_range
from acm_export.quantization.activations import activated
from acm_export.quantization.dense_scales import relative_error
from acm_export.quantization.scales import (
    HiddenScale,
    hidden_scale,
    migration,
    quantize_columns,
    round_hidden,
    symmetric_scale,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    divisor = _divisor(weights.w1, seen, options)
    moved = weights.w1 * divisor[:, None]
    largest = float((seen.largest / divisor).max())
    scale = symmetric_scale(seen.sample / divisor, np.square(moved).sum(1), largest)
    x_mult = (1 / (scale * divisor)).astype(np.float32)
    q = np.clip(np.rint(seen.sample * x_mult), -128, 127)
    w1, w1_scale = quantize_columns(moved, options.levels)
    s1 = (w1_scale * scale).astype(np.float32)
    b1 = weights.b1.copy()
    learners = []
    for learner, (part, tokens) in enumerate(zip(_parts(weights, signature), _runs(seen, signature), strict=True)):
        true_u = seen.sample @ weights.w1[:, part]
        u = (q @ w1[:, part].astype(np.float32)) * s1[part]
        b1[part] += tokens @ (true_u - u) / tokens.sum()
        active = activated(signature.activation, u + b1[part])
        exact = activated(signature.activation, true_u + weights.b1[part])
        found = hidden_scale(active, tokens, np.square(weights.w2[part]).sum(1))
        learners.append(_Hidden(part, tokens, runs_exactly(seen, learner), exact, active, found))
    unused = tuple(number for number, hidden in enumerate(learners, 1) if not hidden.exact.any())
    learners = _with_guesses(learners, unused)
    multipliers = np.array([hidden.scale.multiplier for hidden in learners], np.float32)
    zeros = np.array([hidden.scale.zero for hidden in learners], np.int8)
    divided = weights.w2 / np.repeat(multipliers, len(weights.w2) // len(learners))[:, None]
    w2, s2 = quantize_columns(divided, options.levels)
    b2, error = _output_biases(weights, learners, w2, s2)
    return LayerResult(QuantizedLearners(x_mult, w1, s1, b1, multipliers, zeros, w2, s2, b2), error, unused)


@dataclass(frozen=True)
class _Hidden:
    """The hidden values of one learner.

    Args:
        part: Its hidden columns.
        tokens: Weight of each token for the learner's scale.
        ran: 1 for the tokens that run the learner, 0 for the others.
        exact: Hidden values of the float layer.
        active: Hidden values from int8 tokens and weights, before rounding.
        scale: Their scale.
    """

    part: slice
    tokens: NDArray[np.float32]
    ran: NDArray[np.float32]
    exact: NDArray[np.float32]
    active: NDArray[np.float32]
    scale: HiddenScale


def _output_biases(
    weights: FloatLearners, learners: Sequence[_Hidden], w2: NDArray[np.int8], s2: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """b2 with the mean errors corrected and the zero points folded in, and the relative error of the sums."""
    b2 = weights.b2.astype(np.float64)
    sums, total = np.zeros((2, len(learners[0].exact), weights.w2.shape[1]), np.float32)
    for learner, hidden in enumerate(learners):
        rounded = round_hidden(hidden.active, hidden.scale) - hidden.scale.zero
        exact = hidden.exact @ weights.w2[hidden.part]
        y = (rounded @ w2[hidden.part].astype(np.float32)) * s2
        shift = hidden.tokens @ (exact - y) / hidden.tokens.sum()
        zeros = s2.astype(np.float64) * (hidden.scale.zero * w2[hidden.part].sum(0, dtype=np.int64))
        b2[learner + 1 :] += shift - zeros
        sums += hidden.ran[:, None] * (y + shift)
        total += hidden.ran[:, None] * exact
    return b2.astype(np.float32), relative_error(sums, total)


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


def _parts(weights: FloatLearners, signature: Signature) -> list[slice]:
    """The hidden columns of each learner."""
    n = signature.num_learners
    hidden = weights.w1.shape[1] // n
    return [slice(learner * hidden, (learner + 1) * hidden) for learner in range(n)]


def _runs(seen: Observed, signature: Signature) -> list[NDArray[np.float32]]:
    """Weight of each sampled token for each learner's scales."""
    runs = [runs_exactly(seen, learner) for learner in range(signature.num_learners)]
    return [tokens if tokens.sum() >= ENOUGH_TOKENS else np.ones_like(tokens) for tokens in runs]


def _with_guesses(learners: list[_Hidden], unused: Sequence[int]) -> list[_Hidden]:
    """The learners; those without hidden values, by number, get the median scale of the others.

    A scale of 1 could make their weights the largest of a column, which would cost the other learners accuracy.
    """
    used = [hidden.scale for number, hidden in enumerate(learners, 1) if number not in unused]
    if not used:
        return learners
    guess = sorted(used, key=lambda scale: float(scale.multiplier))[len(used) // 2]
    return [replace(hidden, scale=guess) if n in unused else hidden for n, hidden in enumerate(learners, 1)]


def _divisor(w1: NDArray[np.float32], seen: Observed, options: Options) -> NDArray[np.float32]:
    if not options.migration:
        return np.ones(len(w1), np.float32)
    return migration(seen.largest, np.abs(w1).max(1), options.migration)


def _dynamic_error(weights: FloatLearners, learners: QuantizedLearners, signature: Signature, seen: Observed) -> float:
    """As the operator computes it with ``dynamic`` = 1."""
    q, factor = _rounded_rows(seen.sample * learners.x_mult)
    sums, total = np.zeros((2, len(q), weights.w2.shape[1]), np.float32)
    for learner, part in enumerate(_parts(weights, signature)):
        ran = runs_exactly(seen, learner)[:, None]
        u = (q @ learners.w1[:, part].astype(np.float32)) * factor * learners.s1[part] + weights.b1[part]
        qh, scale = _rounded_rows(activated(signature.activation, u))
        sums += ran * scale * (qh @ learners.w2[part].astype(np.float32)) * learners.s2
        exact = activated(signature.activation, seen.sample @ weights.w1[:, part] + weights.b1[part])
        total += ran * (exact @ weights.w2[part])
    return relative_error(sums, total)


def _rounded_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    largest = token_range(values)
    return np.rint(values * (np.float32(127) / largest)), largest / np.float32(127)
