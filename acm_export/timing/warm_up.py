"""Run a model until its times are stable.

Runs are grouped into windows of at least :data:`WINDOW_RUNS` runs and :data:`WINDOW_SECONDS` seconds. Times are stable
once the medians of the last two windows differ by at most :data:`TOLERANCE` of the earlier one. Without a fixed length,
the warm-up ends when times are stable, or after :data:`MAX_WARM_UP_SECONDS` seconds or :data:`MAX_WARM_UP_RUNS` runs,
whichever comes first; the run that crosses the limit is finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.base.timing import Clock

WINDOW_RUNS = 5
WINDOW_SECONDS = 0.1
TOLERANCE = 0.02
MAX_WARM_UP_SECONDS = 5.0
MAX_WARM_UP_RUNS = 20_000


@dataclass(frozen=True)
class WarmUp:
    """Result of a warm-up.

    Args:
        runs: Number of runs.
        seconds: Duration of all runs together.
        run_seconds: Median run of the last window.
        stable: Whether times were stable at the end.
    """

    runs: int
    seconds: float
    run_seconds: float
    stable: bool


def warm_up(call: Callable[[], object], clock: Clock, seconds: float | None = None) -> WarmUp:
    """Run until times are stable, or for a fixed time.

    Args:
        call: Runs once and returns when the work is done.
        clock: Clock of the measurement.
        seconds: Duration of the warm-up, at least one run; None to end it when times are stable.
    """
    start = window_start = clock.now()
    runs, stable, window, earlier = 0, False, list[float](), None
    while True:
        before = clock.now()
        call()
        after = clock.now()
        runs += 1
        window.append(after - before)
        if len(window) >= WINDOW_RUNS and after - window_start >= WINDOW_SECONDS:
            present = median(window)
            stable = earlier is not None and abs(present - earlier) <= TOLERANCE * earlier
            earlier, window, window_start = present, [], after
        elapsed = after - start
        if seconds is None:
            done = stable or elapsed >= MAX_WARM_UP_SECONDS or runs >= MAX_WARM_UP_RUNS
        else:
            done = elapsed >= seconds
        if done:
            return WarmUp(runs, elapsed, median(window) if window else earlier or 0.0, stable)
