"""A clock, and the comparison of the run times of two callables on a machine that other processes use too."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTLE_SECONDS = 0.03
"""ONNX Runtime's threads spin for a few milliseconds after a run and would take cores from the other session."""

_WARM_UP = 2


class Clock(Protocol):
    """A monotonic clock, which tests replace."""

    def now(self) -> float:
        """Seconds since an arbitrary moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's performance counter."""

    def now(self) -> float:
        """Seconds of the performance counter."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def block_seconds(run: Callable[[], object], runs: int) -> float:
    """Median seconds of ``runs`` back-to-back runs, after a pause and two warm-up runs."""
    time.sleep(_SETTLE_SECONDS)
    for _ in range(_WARM_UP):
        run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def paired_ratios(run: Callable[[], object], baseline: Callable[[], object], *, pairs: int, runs: int) -> list[float]:
    """Ratios of run time to baseline time; each baseline is the mean of the blocks before and after the run.

    Args:
        run: The callable to time.
        baseline: The callable to compare with.
        pairs: Number of ratios.
        runs: Runs per block.
    """
    ratios = []
    before = block_seconds(baseline, runs)
    for _ in range(pairs):
        seconds = block_seconds(run, runs)
        after = block_seconds(baseline, runs)
        ratios.append(2 * seconds / (before + after))
        before = after
    return ratios
