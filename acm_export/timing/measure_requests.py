"""Time requests of different lengths, each at its own shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.timing import SystemClock
from acm_export.timing.measure import MAX_BLOCKS, MIN_BLOCKS, SETTLING_RUNS, time_blocks
from acm_export.timing.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from acm_export.base.timing import Clock
    from acm_export.data.batches import Arrays
    from acm_export.timing.backends.backend import DeviceTimes
    from acm_export.timing.measure import Call, Measurement


class RequestCalls:
    """Runs requests of different lengths in turn.

    Args:
        run: Runs one request.
        requests: Arrays of each request.
        middle: Index of the request to warm up with.
    """

    def __init__(self, run: Callable[[Arrays], DeviceTimes], requests: Sequence[Arrays], middle: int) -> None:
        self._run, self.requests, self._middle, self._next = run, requests, middle, 0

    def __call__(self) -> DeviceTimes:
        """Run the next request; the first one follows the last one."""
        arrays = self.requests[self._next % len(self.requests)]
        self._next += 1
        return self._run(arrays)

    def warm_up(self) -> DeviceTimes:
        """Run the request of medium length."""
        return self._run(self.requests[self._middle])

    def rewind(self) -> None:
        """Let the runs that a block does not count end with the last request."""
        self._next = -SETTLING_RUNS


def measure_requests(
    model: Sequence[RequestCalls],
    *baselines: Sequence[RequestCalls],
    seconds: float = 2.0,
    runs: int | None = None,
    warm_up_seconds: float | None = None,
    clock: Clock | None = None,
) -> tuple[Measurement, ...]:
    """Warm up and time requests of different lengths; every block runs all of them equally often, in the same order.

    The warm-up runs a request of medium length until its times are stable, and then every request once.

    Args:
        model: Requests of the model for each stream.
        *baselines: The same requests of each baseline for each stream.
        seconds: Duration of the timed runs of each of them, if ``runs`` is None; at least two runs of each request.
        runs: Timed runs of each stream, rounded up to whole passes over the requests.
        warm_up_seconds: Duration of the warm-up; None to warm up until times are stable.
        clock: Clock of the measurement; by default the machine's performance counter.
    """
    clock = clock or SystemClock()
    models, requests = [model, *baselines], len(model[0].requests)
    warm_ups, pass_seconds = [], []
    for calls in models:
        warm_ups.append(warm_up(calls[0].warm_up, clock, warm_up_seconds))
        start = clock.now()
        for _ in range(requests):
            calls[0]()
        pass_seconds.append(clock.now() - start)
    fitting = max(MIN_BLOCKS, int(seconds // max(pass_seconds[0], 1e-9)))
    passes = fitting if runs is None else -(-runs // requests)
    count = min(MAX_BLOCKS, passes)
    block_runs = [requests * (passes // count + (index < passes % count)) for index in range(count)]
    return time_blocks(models, warm_ups, block_runs, seconds, clock, _rewind)


def _rewind(call: Call) -> None:
    if isinstance(call, RequestCalls):
        call.rewind()
