"""Timed calls of a model in one or several streams; each stream has its own thread, and all start together."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError, Event
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from acm_export.timing.backends.backend import DeviceTimes

    Call = Callable[[], DeviceTimes]
    """Runs a model once and returns when the outputs are in host memory."""


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


@dataclass
class StreamBlock:
    """The runs of one stream in one block.

    Args:
        start: Seconds of the clock before its first timed run.
        end: Seconds of the clock after its last timed run.
        host_ms: Host time of each run.
        device_times: What the runtime reported about each run.
    """

    start: float
    end: float
    host_ms: list[float] = field(default_factory=list)
    device_times: list[DeviceTimes] = field(default_factory=list)


class Streams:
    """Runs a model in one or several streams at the same time.

    Args:
        calls: Call of the model for each stream.
        clock: Clock of the measurement.
    """

    def __init__(self, calls: Sequence[Call], clock: Clock) -> None:
        self._calls, self._clock, self._stop = calls, clock, Event()
        self._threads = ThreadPoolExecutor(len(calls), "stream") if len(calls) > 1 else None

    def run_block(self, settling: int, seconds: float, runs: int | None) -> list[StreamBlock]:
        """Run every stream for some seconds, or a number of runs if that is given.

        Args:
            settling: Runs at the start that do not count.
            seconds: Duration of each stream.
            runs: Runs of each stream, instead of the duration.

        Raises:
            Exception: What a run raised; all streams stop for good after their current run.
        """
        barrier = Barrier(len(self._calls))
        if self._threads is None:
            return [self._stream(self._calls[0], settling, seconds, runs, barrier)]
        try:
            submit = self._threads.submit
            return _results([submit(self._stream, call, settling, seconds, runs, barrier) for call in self._calls])
        except BaseException:  # of a stream, or of a signal
            self._stop.set()
            barrier.abort()
            raise

    def close(self) -> None:
        """Stop and end the threads."""
        self._stop.set()
        if self._threads is not None:
            self._threads.shutdown()

    def _stream(self, call: Call, settling: int, seconds: float, runs: int | None, barrier: Barrier) -> StreamBlock:
        try:
            for _ in range(settling):
                call()
            barrier.wait()
            return self._timed(call, seconds, runs)
        except BaseException:
            self._stop.set()
            barrier.abort()
            raise

    def _timed(self, call: Call, seconds: float, runs: int | None) -> StreamBlock:
        now, stopped = self._clock.now, self._stop.is_set
        start = now()
        block = StreamBlock(start, start)
        add_host_ms, add_device_times = block.host_ms.append, block.device_times.append
        done = 0
        while True:
            before = now()
            device_times = call()
            after = now()
            done += 1
            add_device_times(device_times)
            add_host_ms((after - before) * 1e3)
            if stopped() or (done >= runs if runs is not None else after - start >= seconds):
                block.end = after
                return block


def _results(futures: Sequence[Future[StreamBlock]]) -> list[StreamBlock]:
    """Results in order; an error of a run takes precedence over the barriers that it broke for the others."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
