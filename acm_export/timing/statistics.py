"""Statistics of run times, and the line of time against β: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MIN_BUDGETS = 3
"""A line fits any two points."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the times of n runs, in milliseconds.

    Args:
        mean: Arithmetic mean.
        std: Sample standard deviation (n - 1); None for one run.
        p50: Median, by :func:`percentile`.
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile; equals ``max`` below 100 runs.
        max: Maximum.
        n: Number of runs.
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
        """Coefficient of variation, std ÷ mean; 0 for one run."""
        return (self.std or 0.0) / self.mean if self.mean else 0.0


def summarize(milliseconds: Sequence[float]) -> Statistics:
    """Statistics of run times.

    Args:
        milliseconds: Time of each run, in any order.

    Raises:
        ValueError: There are no times.
    """
    if not milliseconds:
        raise ValueError("no run was timed")
    ordered = sorted(milliseconds)
    n = len(ordered)
    mean = math.fsum(ordered) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (n - 1)) if n > 1 else None
    p50, p90, p95, p99 = (percentile(ordered, p) for p in (50, 90, 95, 99))
    return Statistics(mean, std, p50, p90, p95, p99, ordered[-1], n)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least this many percent of the values do not exceed.

    It is always a time that was measured. Nothing is interpolated, so a tail never looks better than it is.

    Args:
        ordered: Ascending values, at least one.
        percent: Percentage above 0, at most 100.
    """
    rank = math.ceil(Fraction(str(percent)) * len(ordered) / 100)  # exact: 99.9% of 1000 values are 999
    return ordered[rank - 1]


def percentiles(milliseconds: Iterable[float], percents: Sequence[float]) -> dict[str, float]:
    """Percentiles by name, as ``p99.9``.

    Args:
        milliseconds: Time of each run, in any order.
        percents: Percentiles to take.
    """
    ordered = sorted(milliseconds)
    return {f"p{percent:g}": percentile(ordered, percent) for percent in percents}


@dataclass(frozen=True)
class LinearFit:
    """time = fixed_ms + ms_per_budget · β, by least squares.

    Args:
        fixed_ms: Time at β = 0; None without a fit.
        ms_per_budget: Additional time from β = 0 to β = 1; None without a fit.
        r2: Share of the variance of the times that the line explains; None without variance.
    """

    fixed_ms: float | None = None
    ms_per_budget: float | None = None
    r2: float | None = None


def fit_line(points: Sequence[tuple[float, float]]) -> LinearFit:
    """Fit time against β.

    Args:
        points: Pairs of β and milliseconds.

    Returns:
        The fit; its fields are None if the points have fewer than three different β.
    """
    if len({budget for budget, _ in points}) < _MIN_BUDGETS:
        return LinearFit()
    n = len(points)
    mean_b = math.fsum(b for b, _ in points) / n
    mean_t = math.fsum(t for _, t in points) / n
    squares = math.fsum((b - mean_b) ** 2 for b, _ in points)
    slope = math.fsum((b - mean_b) * (t - mean_t) for b, t in points) / squares
    fixed = mean_t - slope * mean_b
    total = math.fsum((t - mean_t) ** 2 for _, t in points)
    residual = math.fsum((t - fixed - slope * b) ** 2 for b, t in points)
    return LinearFit(fixed, slope, 1 - residual / total if total else None)
