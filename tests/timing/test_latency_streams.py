"""Concurrent streams, with exact times: each thread has its own clock, which only its runs advance."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from acm_export.timing.backends.backend import DeviceTimes
from acm_export.timing.measure import Streams, measure

if TYPE_CHECKING:
    from collections.abc import Iterable

TICK = 1 / 64


class ThreadClock:
    """Starts at 0 in every thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def now(self) -> float:
        return float(getattr(self._local, "time", 0.0))

    def sleep(self, seconds: float) -> None:
        """Takes no time."""

    def move(self, seconds: float) -> None:
        self._local.time = self.now() + seconds


class Stream:
    """Takes the scripted times, and records the threads it ran in."""

    def __init__(self, clock: ThreadClock, script: Iterable[float], fails_at: int | None = None) -> None:
        self.clock, self.script, self.fails_at = clock, iter(script), fails_at
        self.runs, self.threads = 0, set[int]()

    def __call__(self) -> DeviceTimes:
        self.runs += 1
        self.threads.add(threading.get_ident())
        if self.runs == self.fails_at:
            raise RuntimeError("the stream broke")
        self.clock.move(next(self.script))
        return DeviceTimes(device_ms=self.runs)


def test_each_stream_makes_the_given_runs_in_its_own_thread() -> None:
    clock = ThreadClock()
    streams = [Stream(clock, repeat(ticks * TICK)) for ticks in (1, 2, 4)]
    blocks = Streams(streams, clock).run_block(2, 1.0, 5)
    assert [block.host_ms for block in blocks] == [[1e3 * ticks * TICK] * 5 for ticks in (1, 2, 4)]
    assert [[times.device_ms for times in block.device_times] for block in blocks] == [[3, 4, 5, 6, 7]] * 3
    assert [(block.start, block.end) for block in blocks] == [(2 * t * TICK, 7 * t * TICK) for t in (1, 2, 4)]
    assert all(len(stream.threads) == 1 for stream in streams)
    assert len({thread for stream in streams for thread in stream.threads}) == 3
    assert threading.get_ident() not in streams[0].threads


def test_no_stream_begins_before_all_have_settled() -> None:
    clock = ThreadClock()
    quick, seen = Stream(clock, repeat(TICK)), list[int]()

    def slow() -> DeviceTimes:
        if len(seen) < 2:
            time.sleep(0.05)  # long enough for the other to run on, if it did not wait
            seen.append(quick.runs)
        clock.move(TICK)
        return DeviceTimes()

    Streams([quick, slow], clock).run_block(2, 1.0, 20)
    assert seen[-1] == 2


def test_each_stream_runs_until_its_time_is_over() -> None:
    clock = ThreadClock()
    blocks = Streams([Stream(clock, repeat(ticks * TICK)) for ticks in (1, 8)], clock).run_block(0, 16 * TICK, None)
    assert [len(block.host_ms) for block in blocks] == [16, 2]


def test_one_stream_needs_no_thread() -> None:
    clock = ThreadClock()
    stream = Stream(clock, repeat(TICK))
    Streams([stream], clock).run_block(0, 1.0, 1)
    assert stream.threads == {threading.get_ident()}


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_an_error_of_one_stream_ends_all_and_is_the_one_that_is_raised(fails_at: int) -> None:
    clock = ThreadClock()
    endless, broken = Stream(clock, repeat(0.0)), Stream(clock, repeat(0.0), fails_at)
    streams = Streams([endless, broken], clock)
    with pytest.raises(RuntimeError, match="the stream broke"):
        streams.run_block(2, 1.0, None)  # no time passes: only the error ends it
    streams.close()
    assert broken.runs == fails_at


def test_throughput_is_that_of_all_streams_together() -> None:
    clock = ThreadClock()
    streams = [Stream(clock, repeat(TICK)) for _ in range(4)]
    (timed,) = measure(streams, runs=10, clock=clock)
    assert len(timed.host_ms) == 4 * 10
    assert set(timed.host_ms) == {1e3 * TICK}
    assert [len(block) for block in timed.blocks] == [20, 20]


def test_a_block_lasts_from_the_first_start_to_the_last_end() -> None:
    clock = ThreadClock()
    blocks = Streams([Stream(clock, repeat(t * TICK)) for t in (1, 3)], clock).run_block(0, 1.0, 4)
    assert max(block.end for block in blocks) - min(block.start for block in blocks) == 12 * TICK


class StoppedError(BaseException):
    """Raised by the signal handler of a test."""


def test_a_signal_ends_all_streams() -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGUSR1, stop)
    clock = ThreadClock()
    endless, sending = Stream(clock, repeat(0.0)), Stream(clock, repeat(0.0))

    def send() -> DeviceTimes:
        if sending.runs == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return sending()

    streams = Streams([endless, send], clock)
    try:
        with pytest.raises(StoppedError):
            streams.run_block(1, 1.0, None)  # no time passes: only the signal ends it
        streams.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert endless.runs > 0
