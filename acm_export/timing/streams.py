"""One loop of timed runs, or several at once: each in a thread of its own, all of them started together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError, Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from acm_export.timing.clock import Clock
    from acm_export.timing.runtime import Times

    Run = Callable[[], Times]
    """Runs once, returns when the work is done, and what the runtime tells about the run."""


@dataclass
class Lap:
    """What one stream did in one block.

    Args:
        began: Seconds of the clock before its first counted run.
        ended: After its last.
        host_ms: Of each run.
        told: What the runtime told about each run.
    """

    began: float
    ended: float
    host_ms: list[float] = field(default_factory=list)
    told: list[Times] = field(default_factory=list)


class Streams:
    """Runs a model in several streams at once.

    Args:
        runs: One for each stream.
        clock: In seconds.
    """

    def __init__(self, runs: Sequence[Run], clock: Clock) -> None:
        self._runs, self._clock, self._stop = runs, clock, Event()
        self._threads = ThreadPoolExecutor(len(runs), "stream") if len(runs) > 1 else None

    def laps(self, settling: int, seconds: float, runs: int | None) -> list[Lap]:
        """Run every stream until so many seconds have passed, or so many runs where they are given.

        Args:
            settling: Runs before, which do not count.
            seconds: Of each stream.
            runs: Of each stream, in their place.

        Raises:
            Exception: What a run raised; all streams stop after the run that they are in, for good.
        """
        together = Barrier(len(self._runs))
        if self._threads is None:
            return [self._lap(self._runs[0], settling, seconds, runs, together)]
        try:
            laps = [self._threads.submit(self._lap, run, settling, seconds, runs, together) for run in self._runs]
            return _results(laps)
        except BaseException:  # of a stream, or of a signal
            self._stop.set()
            together.abort()
            raise

    def close(self) -> None:
        """Stop and end the threads."""
        self._stop.set()
        if self._threads is not None:
            self._threads.shutdown()

    def _lap(self, run: Run, settling: int, seconds: float, runs: int | None, together: Barrier) -> Lap:
        try:
            for _ in range(settling):
                run()
            together.wait()
            return self._timed(run, seconds, runs)
        except BaseException:
            self._stop.set()
            together.abort()
            raise

    def _timed(self, run: Run, seconds: float, runs: int | None) -> Lap:
        now, stopped = self._clock.now, self._stop.is_set
        began = now()
        lap = Lap(began, began)
        host_ms, told = lap.host_ms.append, lap.told.append
        done = 0
        while True:
            start = now()
            times = run()
            end = now()
            done += 1
            told(times)
            host_ms((end - start) * 1e3)
            if stopped() or (done >= runs if runs is not None else end - began >= seconds):
                lap.ended = end
                return lap


def _results(futures: Sequence[Future[Lap]]) -> list[Lap]:
    """Results in order; an error of a run comes before the barriers that it broke for the others."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
