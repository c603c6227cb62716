"""Warm-up: run until times no longer change, within bounds.

The rule. Runs are cut into windows of at least :data:`WINDOW_RUNS` runs and :data:`WINDOW_SECONDS` seconds. It is
stable once the medians of the last two windows differ by at most :data:`TOLERANCE` of the earlier one. It gives up, and
says so, after :data:`MOST_SECONDS` seconds or :data:`MOST_RUNS` runs, whichever comes first; the run that crosses the
bound is finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.timing.clock import Clock

WINDOW_RUNS = 5
WINDOW_SECONDS = 0.1
TOLERANCE = 0.02
MOST_SECONDS = 5.0
MOST_RUNS = 20_000


@dataclass(frozen=True)
class WarmUp:
    """How a warm-up went.

    Args:
        runs: That were made.
        seconds: That they took together.
        run_seconds: Median run of the last window.
        stable: Whether the rule was met within the bounds.
    """

    runs: int
    seconds: float
    run_seconds: float
    stable: bool


def warm_up(run: Callable[[], object], clock: Clock) -> WarmUp:
    """Run until stable or out of bounds.

    Args:
        run: Runs once and returns when the work is done.
        clock: In seconds.
    """
    began = window_began = clock.now()
    runs, window, before = 0, list[float](), None
    while True:
        start = clock.now()
        run()
        end = clock.now()
        runs += 1
        window.append(end - start)
        if len(window) >= WINDOW_RUNS and end - window_began >= WINDOW_SECONDS:
            now = median(window)
            if before is not None and abs(now - before) <= TOLERANCE * before:
                return WarmUp(runs, end - began, now, stable=True)
            before, window, window_began = now, [], end
        if end - began >= MOST_SECONDS or runs >= MOST_RUNS:
            return WarmUp(runs, end - began, median(window) if window else before or 0.0, stable=False)
