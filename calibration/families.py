"""Families of thresholds with one parameter, and thresholds under which given shares of tokens run each learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from acm_export.calibration.margins import merge, quantile, share_above
from acm_export.onnx_file.thresholds import by_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from acm_export.calibration.evaluator import Summaries
    from acm_export.calibration.margins import MarginSummary
    from acm_export.onnx_file.manifest import LayerEntry

_BEYOND = 0.05
"""Distance of the extreme thresholds from the observed margins, as a share of their range. A larger one would distort
the interpolation between two knots, a smaller one would let unseen tokens pass."""

_BEYOND_CONSTANT = 1e-3

_CLOSING = 0.01
_HARDLY_OPEN = 1e-9


class ThresholdFamily(Protocol):
    """Thresholds with one parameter, from no gated learner running to all of them."""

    @property
    def name(self) -> str:
        """Name for reports."""

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers, one after the other, for a parameter from 0 to 1; none increases with it."""


@dataclass(frozen=True)
class ModelMargins:
    """Margins of all layers of a model on the calibration data.

    Args:
        layers: Layers of the manifest.
        summaries: Margins with all learners running.
        low: Finite threshold of each learner below all its margins; float32, all layers one after the other.
        high: Finite threshold of each learner above all its margins. Both are 0 for learners that always run.
    """

    layers: tuple[LayerEntry, ...]
    summaries: Summaries
    low: NDArray[np.float32]
    high: NDArray[np.float32]


@dataclass(frozen=True)
class ContinuousFamily:
    """A family made continuous at its cheap end.

    Families take their thresholds from margins with all learners running. With fewer learners margins can be larger, so
    that many tokens exceed even the largest threshold of a family, until it closes all gates: the budget jumps. This
    family interpolates between the two over the first hundredth of the parameter.

    Args:
        family: Family to make continuous.
        closed: Thresholds that no margin exceeds, of all layers, one after the other.
    """

    family: ThresholdFamily
    closed: NDArray[np.float32]

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers."""
        if share >= _CLOSING:
            return self.family.thresholds(max((share - _CLOSING) / (1 - _CLOSING), _HARDLY_OPEN))
        part = np.float64(max(share, 0.0) / _CLOSING)
        opening = self.family.thresholds(_HARDLY_OPEN)
        return np.asarray((1 - part) * self.closed.astype(np.float64) + part * opening, np.float32)


def model_margins(layers: tuple[LayerEntry, ...], with_all: Summaries, with_least: Summaries) -> ModelMargins:
    """Combine margins with all learners running and margins with only the learners that always run."""
    low, high = [], []
    for layer, most, least in zip(layers, with_all, with_least, strict=True):
        edges = [_edges(merge(pair)) for pair in zip(most, least, strict=True)]
        ends = [(0.0, 0.0)] * layer.min_learners + edges
        low += [end[0] for end in ends]
        high += [end[1] for end in ends]
    return ModelMargins(layers, with_all, np.array(low, np.float32), np.array(high, np.float32))


def _edges(summary: MarginSummary) -> tuple[float, float]:
    if summary.lowest > summary.highest:  # only infinite margins
        return -1.0, 1.0
    width = summary.highest - summary.lowest
    beyond = _BEYOND * width or _BEYOND_CONSTANT * max(abs(summary.highest), 1.0)
    largest = np.finfo(np.float32).max
    below = min(np.float32(max(summary.lowest - beyond, -largest)), np.nextafter(np.float32(summary.lowest), -largest))
    above = max(np.float32(min(summary.highest + beyond, largest)), np.nextafter(np.float32(summary.highest), largest))
    return float(below), float(above)


def thresholds_for_shares(observed: ModelMargins, shares: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Thresholds under which given shares of the tokens run each learner.

    Within a layer they never decrease with n, except for learners that all tokens run or that none runs. Where that
    contradicts the shares, later learners run for fewer tokens.

    Args:
        observed: Margins of the model.
        shares: Share of tokens that should run each gated learner, never increasing, ``[N - m]`` for each layer.

    Returns:
        float32 thresholds of all layers, one after the other.
    """
    result: NDArray[np.float32] = observed.low.copy()
    low, high = by_layer(observed.layers, observed.low), by_layer(observed.layers, observed.high)
    parts = by_layer(observed.layers, result)  # views
    for layer, summaries, wanted in zip(observed.layers, observed.summaries, shares, strict=True):
        floor = -np.inf
        for n, (summary, share) in enumerate(zip(summaries, wanted.tolist(), strict=True), layer.min_learners):
            lowest, highest = float(low[layer.name][n]), float(high[layer.name][n])
            if share >= 1:
                threshold = lowest
            elif share <= 0 or not summary.keys.size:
                threshold = highest
            else:
                floor = max(floor, quantile(summary, 1 - share))
                threshold = min(floor, highest)
            parts[layer.name][n] = threshold
    return result


def expected_budget(observed: ModelMargins, thresholds: NDArray[np.float32]) -> float:
    """β that thresholds would have if margins did not depend on what runs in earlier layers.

    Args:
        observed: Margins of the model.
        thresholds: Thresholds of all layers, one after the other.
    """
    executed = possible = 0.0
    parts = by_layer(observed.layers, thresholds)
    for layer, summaries in zip(observed.layers, observed.summaries, strict=True):
        tokens = token_count(summaries)
        gated = zip(summaries, parts[layer.name][layer.min_learners :].tolist(), strict=True)
        running = layer.min_learners + sum(share_above(summary, threshold) for summary, threshold in gated)
        executed += layer.learner_flops * tokens * running
        possible += layer.learner_flops * tokens * layer.num_learners
    return executed / possible if possible else 1.0


def token_count(summaries: tuple[MarginSummary, ...]) -> int:
    """Tokens of a layer; 1 if it has no gated learner and therefore no margins."""
    return summaries[0].tokens if summaries else 1
