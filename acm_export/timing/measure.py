"""Time a model in blocks; the blocks of a baseline lie between them, so that both run under the same conditions.

Each block begins with a pause (:data:`SETTLE_SECONDS`: worker threads of the other session spin for some milliseconds)
and :data:`SETTLING_RUNS` runs that do not count. The order of each pair of blocks alternates: model, baseline,
baseline, model, and so on, so that a steady drift affects both alike.

Warm-up: runs are grouped into windows of at least :data:`WINDOW_RUNS` runs and :data:`WINDOW_SECONDS` seconds. Times
are stable once the medians of the last two windows differ by at most :data:`TOLERANCE` of the earlier one. Without a
fixed length, the warm-up ends when times are stable, or after :data:`MAX_WARM_UP_SECONDS` seconds or
:data:`MAX_WARM_UP_RUNS` runs, whichever comes first; the run that crosses the limit is finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from acm_export.timing.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from acm_export.timing.backends.backend import DeviceTimes
    from acm_export.timing.request import TimingOptions
    from acm_export.timing.streams import Call, Clock

SETTLE_SECONDS = 0.03
SETTLING_RUNS = 2
MAX_BLOCKS = 8
MIN_BLOCKS = 2
BLOCK_RUNS = 5
"""There are fewer blocks, down to two, if they would hold fewer runs than this."""

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


@dataclass(frozen=True)
class Measurement:
    """The times of a model or of a baseline.

    Args:
        blocks: Host milliseconds of each run, by block; those of several streams one after the other.
        device_times: What the runtime reported about each run, in the same order.
        seconds: Duration of all blocks, each from the first start to the last end.
        warm_up: Warm-up before the first block.
    """

    blocks: tuple[tuple[float, ...], ...]
    device_times: tuple[DeviceTimes, ...]
    seconds: float
    warm_up: WarmUp

    @property
    def host_ms(self) -> tuple[float, ...]:
        """Host milliseconds of all runs, in the order of ``blocks``."""
        return tuple(value for block in self.blocks for value in block)

    def reported_ms(self, name: str) -> tuple[float, ...] | None:
        """One field of :class:`DeviceTimes` for all runs, or None if the runtime does not report it."""
        values = [getattr(times, name) for times in self.device_times]
        return None if None in values else tuple(values)

    @property
    def runs_per_second(self) -> float:
        """Throughput of all streams together; 0 if the clock did not move."""
        return len(self.device_times) / self.seconds if self.seconds else 0.0

    @property
    def drift(self) -> float:
        """Median of the last block ÷ median of the first, minus 1."""
        first = median(self.blocks[0])
        return median(self.blocks[-1]) / first - 1 if first else 0.0


def measure(
    model: Sequence[Call], baseline: Sequence[Call] | None, options: TimingOptions, clock: Clock
) -> tuple[Measurement, Measurement | None]:
    """Warm up and time a model, and a baseline between its blocks.

    Args:
        model: Call of the model for each stream.
        baseline: Call of the baseline for each stream, or None.
        options: How long to time each of them.
        clock: Clock of the measurement.

    Returns:
        Measurements of the model and of the baseline.
    """
    timed: list[_BlockTimer] = []
    try:
        timed.extend(_BlockTimer(calls, options, clock) for calls in (model, baseline) if calls is not None)
        count = _blocks(options, timed[0].warm_up.run_seconds)
        for index in range(count):
            runs = None if options.runs is None else options.runs // count + (index < options.runs % count)
            for timer in timed if index % 2 == 0 else reversed(timed):
                timer.block(options.seconds / count, runs)
        measurements = [timer.measurement() for timer in timed]
    finally:
        for timer in timed:
            timer.close()
    return measurements[0], measurements[1] if baseline is not None else None


def _blocks(options: TimingOptions, run_seconds: float) -> int:
    """Number of blocks for runs that take about this long."""
    expected = options.runs if options.runs is not None else options.seconds / max(run_seconds, 1e-9)
    wanted = max(MIN_BLOCKS, min(MAX_BLOCKS, int(expected // BLOCK_RUNS)))
    return wanted if options.runs is None else min(wanted, options.runs)


class _BlockTimer:
    def __init__(self, calls: Sequence[Call], options: TimingOptions, clock: Clock) -> None:
        self._clock = clock
        self._blocks: list[tuple[float, ...]] = []
        self._device_times: list[DeviceTimes] = []
        self._seconds = 0.0
        self.warm_up = warm_up(calls[0], clock, options.warm_up)
        self._streams = Streams(calls, clock)

    def block(self, seconds: float, runs: int | None) -> None:
        """Time for some seconds, or a number of runs if that is given; at least one run of each stream."""
        self._clock.sleep(SETTLE_SECONDS)
        streams = self._streams.run_block(SETTLING_RUNS, seconds, runs)
        self._blocks.append(tuple(value for stream in streams for value in stream.host_ms))
        self._device_times += [times for stream in streams for times in stream.device_times]
        self._seconds += max(stream.end for stream in streams) - min(stream.start for stream in streams)

    def measurement(self) -> Measurement:
        return Measurement(tuple(self._blocks), tuple(self._device_times), self._seconds, self.warm_up)

    def close(self) -> None:
        self._streams.close()


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
