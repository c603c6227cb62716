"""Scales of the learners of one ACM layer (docs/op.md, "The int8 operator")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.onnx_file.quantization.learners import QuantizedLearners
from acm_export.op.quantized_reference import token_range
from acm_export.quantization.dense_scales import relative_error
from acm_export.quantization.float_learners import divisor_of, hidden_values, parts, smoothed
from acm_export.quantization.scales import (
    HiddenScale,
    hidden_scale,
    quantize_columns,
    round_hidden,
    symmetric_scale,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from acm_export.op.signature import Signature
    from acm_export.quantization.float_learners import FloatLearners
    from acm_export.quantization.observed import Observed
    from acm_export.quantization.options import Options

UP_INPUTS = {"w1": ("w1", "s1", "b1"), "v1": ("v1", "t1", "c1")}
"""Inputs of the int8 operators for each up projection: weight, scales, bias."""

ENOUGH_TOKENS = 64
"""With fewer sampled tokens that run a learner, all sampled tokens set its scale."""


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
    weights = smoothed(weights, signature, seen, options)
    divisor = divisor_of(weights, seen, options)
    largest = float((seen.largest / divisor).max())
    importance = sum(np.square(weight * divisor[:, None]).sum(1) for weight, _ in weights.up.values())
    scale = symmetric_scale(seen.sample / divisor, np.asarray(importance), largest)
    x_mult = (1 / (scale * divisor)).astype(np.float32)
    q = np.clip(np.rint(seen.sample * x_mult), -128, 127)
    up = {name: _Up(*floats, divisor, scale, options.levels) for name, floats in weights.up.items()}
    learners = []
    for learner, (part, tokens) in enumerate(zip(parts(weights, signature), _runs(seen, signature), strict=True)):
        results = [projection.run(part, seen.sample, q, tokens) for projection in up.values()]
        active, exact = (hidden_values(signature, values) for values in zip(*results, strict=True))
        found = hidden_scale(active, tokens, np.square(weights.w2[part]).sum(1))
        learners.append(_Hidden(part, tokens, runs_exactly(seen, learner), exact, active, found))
    unused = tuple(number for number, hidden in enumerate(learners, 1) if not hidden.exact.any())
    learners = _with_guesses(learners, unused)
    multipliers = np.array([hidden.scale.multiplier for hidden in learners], np.float32)
    zeros = np.array([hidden.scale.zero for hidden in learners], np.int8)
    divided = weights.w2 / np.repeat(multipliers, len(weights.w2) // len(learners))[:, None]
    w2, s2 = quantize_columns(divided, options.levels)
    b2, error = _output_biases(weights, learners, w2, s2)
    inputs: dict[str, Any] = {key: values for name, one in up.items() for key, values in one.inputs(name).items()}
    inputs |= {"x_mult": x_mult, "h_mult": multipliers, "h_zero": zeros, "w2": w2, "s2": s2, "b2": b2}
    return LayerResult(QuantizedLearners(**inputs), error, unused)


class _Up:
    """An up projection in float and in int8.

    Args:
        weight: ``[D, N*h]``.
        bias: ``[N*h]``.
        divisor: What each channel of x is divided by, ``[D]``.
        scale: Scale of x.
        levels: Largest value of an int8 weight.
    """

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        divisor: NDArray[np.float32],
        scale: np.float32,
        levels: int,
    ) -> None:
        self._weight, self._bias, self._corrected = weight, bias, bias.copy()
        self._int8, columns = quantize_columns(weight * divisor[:, None], levels)
        self._scale = (columns * scale).astype(np.float32)

    def run(
        self, part: slice, sample: NDArray[np.float32], q: NDArray[np.float32], tokens: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Columns of one learner from int8 and from float weights; corrects the int8 bias for the mean error."""
        exact = sample @ self._weight[:, part]
        rounded = (q @ self._int8[:, part].astype(np.float32)) * self._scale[part]
        self._corrected[part] += tokens @ (exact - rounded) / tokens.sum()
        return rounded + self._corrected[part], exact + self._bias[part]

    def inputs(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The inputs of the operator for the projection ``w1`` or ``v1``."""
        values = (self._int8, self._scale, self._corrected)
        return dict(zip(UP_INPUTS[name], values, strict=True))


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
    if seen is not None:
        weights = smoothed(weights, signature, seen, options)
    divisor = np.ones(len(weights.w1), np.float32) if seen is None else divisor_of(weights, seen, options)
    up: dict[str, Any] = {}
    for name, (weight, bias) in weights.up.items():
        rounded = quantize_columns(weight * divisor[:, None], options.levels)
        up |= dict(zip(UP_INPUTS[name], (*rounded, bias), strict=True))
    w2, s2 = quantize_columns(weights.w2, options.levels)
    learners = QuantizedLearners(
        x_mult=(1 / divisor).astype(np.float32),
        **up,
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


def _dynamic_error(weights: FloatLearners, learners: QuantizedLearners, signature: Signature, seen: Observed) -> float:
    """As the operator computes it with ``dynamic`` = 1."""
    q, factor = _rounded_rows(seen.sample * learners.x_mult)
    inputs: dict[str, Any] = dict(learners.inputs)
    sums, total = np.zeros((2, len(q), weights.w2.shape[1]), np.float32)
    for learner, part in enumerate(parts(weights, signature)):
        ran = runs_exactly(seen, learner)[:, None]
        up = [tuple(inputs[key][..., part] for key in UP_INPUTS[name]) for name in weights.up]
        rounded = [(q @ weight.astype(np.float32)) * factor * scale + bias for weight, scale, bias in up]
        qh, scale = _rounded_rows(hidden_values(signature, rounded))
        sums += ran * scale * (qh @ learners.w2[part].astype(np.float32)) * learners.s2
        exact = [seen.sample @ weight[:, part] + bias[part] for weight, bias in weights.up.values()]
        total += ran * (hidden_values(signature, exact) @ weights.w2[part])
    return relative_error(sums, total)


def _rounded_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    largest = token_range(values)
    return np.rint(values * (np.float32(127) / largest)), largest / np.float32(127)
