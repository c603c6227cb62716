"""Time a model in blocks; the blocks of baselines lie between them, so that all run under the same conditions.

Each block begins with a pause (:data:`SETTLE_SECONDS`: worker threads of the other session spin for some milliseconds)
and :data:`SETTLING_RUNS` runs that do not count. The order of each round of blocks alternates: model, baseline,
baseline, model, and so on, so that a steady drift affects all alike. Each stream has its own thread, and all start
together.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from threading import Barrier, BrokenBarrierError, Event
from typing import TYPE_CHECKING

from acm_export.base.timing import SystemClock
from acm_export.timing.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from acm_export.base.timing import Clock
    from acm_export.timing.backends.backend import DeviceTimes
    from acm_export.timing.warm_up import WarmUp

    Call = Callable[[], DeviceTimes]
    """Runs a model once and returns when the outputs are in host memory."""

SETTLE_SECONDS = 0.03
SETTLING_RUNS = 2
MAX_BLOCKS = 8
MIN_BLOCKS = 2
BLOCK_RUNS = 5
"""There are fewer blocks, down to two, if they would hold fewer runs than this."""


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

    def of(self, chosen: Sequence[int], requests: int) -> Measurement:
        """The runs of some requests; of the duration the share that they took.

        Args:
            chosen: Indices of requests.
            requests: Number of requests, which each stream ran in turn in every block.
        """
        wanted = frozenset(chosen)
        blocks = tuple(
            tuple(value for place, value in enumerate(block) if place % requests in wanted) for block in self.blocks
        )
        times = tuple(times for place, times in enumerate(self.device_times) if place % requests in wanted)
        share = sum(map(sum, blocks)) / (sum(self.host_ms) or 1.0)
        return Measurement(blocks, times, self.seconds * share, self.warm_up)

    def by_request(self, requests: int) -> tuple[float, ...]:
        """Median host milliseconds of each request."""
        return tuple(median(self.host_ms[request::requests]) for request in range(requests))

    @property
    def drift(self) -> float:
        """Median of the last block ÷ median of the first, minus 1."""
        first = median(self.blocks[0])
        return median(self.blocks[-1]) / first - 1 if first else 0.0


def measure(
    model: Sequence[Call],
    *baselines: Sequence[Call],
    seconds: float = 2.0,
    runs: int | None = None,
    warm_up_seconds: float | None = None,
    clock: Clock | None = None,
) -> tuple[Measurement, ...]:
    """Warm up and time a model, and baselines between its blocks.

    Args:
        model: Call of the model for each stream.
        *baselines: Call of each baseline for each stream.
        seconds: Duration of the timed runs of each of them, if ``runs`` is None.
        runs: Timed runs of each stream.
        warm_up_seconds: Duration of the warm-up; None to warm up until times are stable.
        clock: Clock of the measurement; by default the machine's performance counter.

    Returns:
        Measurements of the model and of each baseline.
    """
    clock = clock or SystemClock()
    models = [model, *baselines]
    warm_ups = [warm_up(calls[0], clock, warm_up_seconds) for calls in models]
    count = _block_count(seconds, runs, warm_ups[0].run_seconds)
    block_runs = [None if runs is None else runs // count + (index < runs % count) for index in range(count)]
    return time_blocks(models, warm_ups, block_runs, seconds / count, clock)


def time_blocks(
    models: Sequence[Sequence[Call]],
    warm_ups: Sequence[WarmUp],
    block_runs: Sequence[int | None],
    seconds: float,
    clock: Clock,
    before: Callable[[Call], None] = lambda _call: None,
) -> tuple[Measurement, ...]:
    """Time blocks; the order of the models alternates.

    Args:
        models: Calls of each model for each stream.
        warm_ups: Warm-up of each model.
        block_runs: Runs of each stream in each block, or None for a duration.
        seconds: Duration of such a block.
        clock: Clock of the measurement.
        before: Receives every call before a block.
    """
    with ExitStack() as stack:
        timed = [
            (stack.enter_context(closing(Streams(calls, clock))), calls, list[list[StreamBlock]]()) for calls in models
        ]
        for index, runs in enumerate(block_runs):
            for streams, calls, blocks in timed if index % 2 == 0 else reversed(timed):
                clock.sleep(SETTLE_SECONDS)
                for call in calls:
                    before(call)
                blocks.append(streams.run_block(SETTLING_RUNS, seconds, runs))
    return tuple(_measurement(blocks, warmed_up) for (_, _, blocks), warmed_up in zip(timed, warm_ups, strict=True))


def _block_count(seconds: float, runs: int | None, run_seconds: float) -> int:
    """Number of blocks for runs that take about ``run_seconds``."""
    expected = runs if runs is not None else seconds / max(run_seconds, 1e-9)
    wanted = max(MIN_BLOCKS, min(MAX_BLOCKS, int(expected // BLOCK_RUNS)))
    return wanted if runs is None else min(wanted, runs)


def _measurement(blocks: Sequence[Sequence[StreamBlock]], warmed_up: WarmUp) -> Measurement:
    """The measurement that consists of these blocks, each of which has one part for every stream."""
    host_ms = tuple(tuple(chain.from_iterable(stream.host_ms for stream in block)) for block in blocks)
    device_times = tuple(times for block in blocks for stream in block for times in stream.device_times)
    seconds = sum(max(stream.end for stream in block) - min(stream.start for stream in block) for block in blocks)
    return Measurement(host_ms, device_times, seconds, warmed_up)


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
            settling: Runs before, which do not count.
            seconds: Duration of each stream.
            runs: Runs of each stream, in place of the duration.

        Raises:
            Exception: What a run raised; all streams stop for good after their present run.
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
        now, stopped = self._clock.now, self._stop.is_set
        try:
            for _ in range(settling):
                call()
            barrier.wait()
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
        except BaseException:
            self._stop.set()
            barrier.abort()
            raise


def _results(futures: Sequence[Future[StreamBlock]]) -> list[StreamBlock]:
    """Results in order; an error of a run takes precedence over the barriers that it broke for the others."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
