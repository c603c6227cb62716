"""Histograms of the margins of a layer, instead of the margins themselves.

A float32 is cut to its sign, exponent and first 7 mantissa bits (16 bits in all), and counted. Counts are whole
numbers, so summaries can be merged in any order and grouping with the same result; there are at most 65,536 of them,
for any amount of data. A margin is known to 1 part in 128, and quantiles are interpolated in between.

Marginal distributions determine the cost of thresholds. Margins never increase with n (docs/op.md), and the thresholds
that calibration considers (:func:`thresholds_for_shares`) never decrease with n, except for learners that all tokens
run or that none runs. Let margin_n > τ_n for a token, and i < n. If all tokens run learner i there is
nothing to show; otherwise τ_i <= τ_n, and margin_i >= margin_n > τ_n >= τ_i. So the token runs all learners before n,
and P(count >= n) = P(margin_n > τ_n), for any joint distribution of the margins of different learners.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_SIGN = np.uint32(0x80000000)


@dataclass(frozen=True)
class MarginSummary:
    """Histogram of the margins of one learner.

    Args:
        keys: Ascending uint16 ``[bins]``, the upper half of :func:`ordered_bits`.
        counts: Tokens in each bin, int64 ``[bins]``, all positive.
        lowest: Smallest finite margin; +inf without any.
        highest: Largest finite margin; -inf without any.
        undefined: Tokens whose margin is NaN.
        below: Tokens whose margin is -inf.
        above: Tokens whose margin is +inf.
    """

    keys: NDArray[np.uint16] = field(default_factory=lambda: np.empty(0, np.uint16))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    lowest: float = np.inf
    highest: float = -np.inf
    undefined: int = 0
    below: int = 0
    above: int = 0

    @property
    def tokens(self) -> int:
        """Tokens with a margin, infinite ones included."""
        return int(self.counts.sum()) + self.below + self.above

    @cached_property
    def distribution(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges of the bins, ascending, and the tokens at or below each edge."""
        starts = np.clip(bin_start(self.keys), self.lowest, self.highest)
        ends = np.clip(bin_start(self.keys.astype(np.int64) + 1), self.lowest, self.highest)
        up_to = self.below + np.cumsum(self.counts)
        edges = np.stack([starts, ends], 1).ravel()
        cumulative = np.stack([up_to - self.counts, up_to], 1).ravel()
        return edges.astype(np.float64), cumulative.astype(np.float64)

    @property
    def constant(self) -> bool:
        """Whether every token has the same margin."""
        return self.tokens > 0 and not self.below and not self.above and self.lowest == self.highest


def summarize(margins: NDArray[np.float32]) -> MarginSummary:
    """Count margins.

    Args:
        margins: Margins of one learner, float32 ``[tokens]``.
    """
    finite = margins[np.isfinite(margins)]
    if finite.size == margins.size:
        undefined = below = above = 0
    else:
        undefined = int(np.isnan(margins).sum())
        below, above = int((margins == -np.inf).sum()), int((margins == np.inf).sum())
    if not finite.size:
        return MarginSummary(undefined=undefined, below=below, above=above)
    # numpy's stable sort of 16-bit integers is a radix sort
    ordered = np.sort((ordered_bits(finite) >> np.uint32(16)).astype(np.uint16), kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(starts, ordered.size)).astype(np.int64)
    return MarginSummary(ordered[starts], counts, float(finite.min()), float(finite.max()), undefined, below, above)


def merge(summaries: Iterable[MarginSummary]) -> MarginSummary:
    """One summary of the tokens of all summaries, at least one."""
    parts = list(summaries)
    keys, places = np.unique(np.concatenate([p.keys for p in parts]), return_inverse=True)
    counts = np.zeros(keys.size, np.int64)
    np.add.at(counts, places, np.concatenate([p.counts for p in parts]))
    return MarginSummary(
        keys,
        counts,
        min(p.lowest for p in parts),
        max(p.highest for p in parts),
        sum(p.undefined for p in parts),
        sum(p.below for p in parts),
        sum(p.above for p in parts),
    )


def quantile(summary: MarginSummary, share: float) -> float:
    """The margin that a share of the tokens does not exceed, interpolated within its bin.

    Infinite margins count, but the result stays within the finite ones.

    Args:
        summary: Summary with at least one finite margin.
        share: Share of the tokens, 0 to 1.
    """
    edges, cumulative = summary.distribution
    return float(np.interp(share * summary.tokens, cumulative, edges))


def share_above(summary: MarginSummary, threshold: float) -> float:
    """Share of tokens whose margin exceeds a threshold, by the same interpolation; 0 without tokens."""
    if not summary.tokens:
        return 0.0
    if not summary.keys.size or threshold >= summary.highest:
        return summary.above / summary.tokens
    if threshold < summary.lowest:
        return (summary.tokens - summary.below) / summary.tokens
    edges, cumulative = summary.distribution
    return 1 - float(np.interp(threshold, edges, cumulative)) / summary.tokens


def ordered_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Integers in the order of the numbers: the sign bit flipped, and all bits of negative numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.asarray(np.where(bits & _SIGN, ~bits, bits | _SIGN), np.uint32)


def bin_start(keys: NDArray[np.uint16] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Smallest number of each bin; that of key + 1 is the end of the bin."""
    ordered = np.asarray(keys, np.uint64) << np.uint64(16)
    bits = np.where(ordered & np.uint64(_SIGN), ordered ^ np.uint64(_SIGN), ordered ^ np.uint64(0xFFFFFFFF))
    return np.asarray(bits.astype(np.uint32).view(np.float32), np.float64)
