"""Statistics of run times, and the line of time against β: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_POINTS = 3
"""Through two points every line fits."""


@dataclass(frozen=True)
class Statistics:
    """Of the times of n runs, in milliseconds.

    Args:
        mean: Arithmetic.
        std: Of the sample (n - 1); None for one run.
        p50: Percentiles by :func:`percentile`.
        p90: Likewise.
        p95: Likewise.
        p99: Likewise; equals ``max`` below 100 runs.
        max: Largest.
        n: Runs.
    """

    mean: float
    std: float | None
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    n: int

    @property
    def variation(self) -> float:
        """The std ÷ mean; 0 for one run."""
        return (self.std or 0.0) / self.mean if self.mean else 0.0


def summarize(milliseconds: Sequence[float]) -> Statistics:
    """Statistics of run times.

    Args:
        milliseconds: One number for each run, in any order.

    Raises:
        ValueError: There are none.
    """
    if not milliseconds:
        raise ValueError("no run was timed")
    ordered = sorted(milliseconds)
    n = len(ordered)
    mean = math.fsum(ordered) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (n - 1)) if n > 1 else None
    p50, p90, p95, p99 = (percentile(ordered, p) for p in (50, 90, 95, 99))
    return Statistics(mean, std, p50, p90, p95, p99, ordered[-1], n)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile: the smallest value that at least so many percent of the values do not exceed.

    It is always a time that was measured; nothing is interpolated, so a tail is never made to look better than it is.

    Args:
        ordered: Ascending, at least one.
        percent: From 1 to 100.
    """
    return ordered[-(-percent * len(ordered) // 100) - 1]


@dataclass(frozen=True)
class Line:
    """time = fixed_ms + ms_per_budget · β, by least squares.

    Args:
        fixed_ms: At β = 0; None without a line.
        ms_per_budget: From β = 0 to β = 1; None without a line.
        r2: Share of the variance of the times that the line explains; None where there is no variance.
    """

    fixed_ms: float | None = None
    ms_per_budget: float | None = None
    r2: float | None = None


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """Fit time against β.

    Args:
        points: (β, milliseconds).

    Returns:
        The line; one of None where the points have fewer than three different β.
    """
    if len({budget for budget, _ in points}) < _FEWEST_POINTS:
        return Line()
    n = len(points)
    mean_b = math.fsum(b for b, _ in points) / n
    mean_t = math.fsum(t for _, t in points) / n
    squares = math.fsum((b - mean_b) ** 2 for b, _ in points)
    slope = math.fsum((b - mean_b) * (t - mean_t) for b, t in points) / squares
    fixed = mean_t - slope * mean_b
    total = math.fsum((t - mean_t) ** 2 for _, t in points)
    residual = math.fsum((t - fixed - slope * b) ** 2 for b, t in points)
    return Line(fixed, slope, 1 - residual / total if total else None)
