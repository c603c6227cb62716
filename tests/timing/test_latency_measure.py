"""Warm-up and blocks, with exact times: only the scripted runs advance the clock."""

from __future__ import annotations

from itertools import chain, count, repeat
from typing import TYPE_CHECKING

import pytest

from acm_export.timing.backends.backend import DeviceTimes
from acm_export.timing.measure import MAX_BLOCKS, SETTLE_SECONDS, SETTLING_RUNS, Measurement, measure
from acm_export.timing.warm_up import MAX_WARM_UP_SECONDS, WarmUp, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterable

TICK = 1 / 64
"""Binary fractions add up exactly."""


class FakeClock:
    def __init__(self) -> None:
        self.time, self.slept = 0.0, list[float]()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Scripted:
    """A model whose runs take the scripted times."""

    def __init__(
        self,
        clock: FakeClock,
        script: Iterable[float],
        name: str = "",
        log: list[str] | None = None,
        device_ms: float | None = None,
    ) -> None:
        self.clock, self.script, self.runs = clock, iter(script), 0
        self.name, self.log, self.device_ms = name, log, device_ms

    def __call__(self) -> DeviceTimes:
        self.clock.time += next(self.script)
        self.runs += 1
        if self.log is not None:
            self.log.append(self.name)
        return DeviceTimes(self.device_ms)


def test_warm_up_ends_when_two_windows_agree() -> None:
    clock = FakeClock()
    run = Scripted(clock, chain([64 * TICK], repeat(4 * TICK, 6), repeat(2 * TICK)))  # windows of 5 runs: 4, 2, 2
    ended = warm_up(run, clock)
    assert ended.stable
    assert (ended.runs, run.runs) == (15, 15)
    assert ended.run_seconds == 2 * TICK
    assert ended.seconds == clock.time == (64 + 6 * 4 + 8 * 2) * TICK


def test_a_window_of_quick_runs_lasts_long_enough() -> None:
    clock = FakeClock()
    assert warm_up(Scripted(clock, repeat(1 / 1024)), clock).runs == 2 * 103  # the first to reach 0.1 s


def test_warm_up_ends_unstable_after_its_time_limit() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, (2.0**n for n in range(-6, 20))), clock)
    assert not ended.stable
    assert MAX_WARM_UP_SECONDS <= ended.seconds < 8


def test_one_run_longer_than_the_limit_ends_the_warm_up() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(7.0)), clock)
    assert (ended.runs, ended.stable, ended.run_seconds) == (1, False, 7.0)


def test_warm_up_is_bounded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.timing.warm_up.MAX_WARM_UP_RUNS", 7)
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(0.0)), clock)
    assert (ended.runs, ended.stable) == (7, False)


def test_a_warm_up_of_a_fixed_time_ignores_stability() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(4 * TICK)), clock, seconds=2.0)
    assert (ended.runs, ended.seconds, ended.stable) == (32, 2.0, True)
    quick = warm_up(Scripted(clock, repeat(4 * TICK)), clock, seconds=0.0)
    assert (quick.runs, quick.run_seconds, quick.stable) == (1, 4 * TICK, False)
    rising = warm_up(Scripted(clock, (2.0**n for n in range(-6, 20))), clock, seconds=50.0)
    assert (rising.stable, rising.seconds >= 50) == (False, True)


def test_the_baseline_is_warmed_up_for_the_same_time() -> None:
    clock = FakeClock()
    runs = [Scripted(clock, repeat(ticks * TICK)) for ticks in (2, 4)]
    model, baseline = measure(runs[:1], runs[1:], runs=4, warm_up_seconds=1.0, clock=clock)
    assert baseline is not None
    assert (model.warm_up.runs, baseline.warm_up.runs) == (32, 16)


def test_blocks_of_model_and_baseline_alternate_in_order() -> None:
    clock, log = FakeClock(), list[str]()
    model = Scripted(clock, repeat(2 * TICK), "m", log)
    baseline = Scripted(clock, repeat(4 * TICK), "b", log)
    timed, beside = measure([model], [baseline], runs=40, clock=clock)
    assert beside is not None
    runs = log[timed.warm_up.runs + beside.warm_up.runs :]
    order = [name for index, name in enumerate(runs) if index == 0 or runs[index - 1] != name]
    assert order == list("mbmbmbmbm")  # m b, b m, m b, ...: neighbours of one kind run into each other
    assert [len(block) for block in timed.blocks] == [5] * 8
    assert runs.count("m") == runs.count("b") == 40 + 8 * SETTLING_RUNS
    assert set(timed.host_ms) == {2e3 * TICK}
    assert set(beside.host_ms) == {4e3 * TICK}
    assert clock.slept == [SETTLE_SECONDS] * 16


def test_blocks_of_three_models_are_mirrored() -> None:
    clock, log = FakeClock(), list[str]()
    scripts = [Scripted(clock, repeat(n * TICK), name, log) for n, name in ((2, "m"), (4, "b"), (8, "i"))]
    timed = measure(*[[script] for script in scripts], runs=40, clock=clock)
    assert len(timed) == 3
    runs = log[sum(one.warm_up.runs for one in timed) :]
    order = [name for index, name in enumerate(runs) if index == 0 or runs[index - 1] != name]
    assert "".join(order) == "mbi" + "bmbi" * 3 + "bm"  # m b i, i b m, m b i, ...: neighbours run into each other
    assert [set(one.host_ms) for one in timed] == [{2e3 * TICK}, {4e3 * TICK}, {8e3 * TICK}]


def test_a_duration_is_spread_over_the_blocks() -> None:
    clock = FakeClock()
    (timed,) = measure([Scripted(clock, repeat(TICK))], seconds=2.0, clock=clock)
    assert [len(block) for block in timed.blocks] == [16] * 8  # 16 runs of 1/64 s are a quarter of a second
    assert timed.reported_ms("device_ms") is None


def test_slow_models_get_fewer_blocks_and_at_least_one_run_in_each() -> None:
    clock = FakeClock()
    (timed,) = measure([Scripted(clock, repeat(8.0))], seconds=2.0, clock=clock)
    assert [len(block) for block in timed.blocks] == [1, 1]


@pytest.mark.parametrize("runs", [1, 2, 7, 11, 39, 41, 100])
def test_exactly_the_requested_runs_are_timed(runs: int) -> None:
    clock = FakeClock()
    (timed,) = measure([Scripted(clock, repeat(TICK))], runs=runs, clock=clock)
    assert len(timed.host_ms) == runs
    assert len(timed.blocks) <= MAX_BLOCKS


def test_settling_runs_do_not_count() -> None:
    clock = FakeClock()
    block = [32 * TICK, 16 * TICK, *([2 * TICK] * 5)]  # two settling runs, then five that count
    run = Scripted(clock, chain([2 * TICK] * 10, block, block))
    (timed,) = measure([run], runs=10, clock=clock)
    assert timed.warm_up.runs == 10
    assert set(timed.host_ms) == {2e3 * TICK}


def test_drift_compares_the_last_block_with_the_first() -> None:
    clock = FakeClock()
    script = chain(repeat(4 * TICK, 10 + 7), repeat(5 * TICK))
    (timed,) = measure([Scripted(clock, script)], runs=10, clock=clock)
    assert timed.drift == pytest.approx(0.25)


def test_device_times_are_kept_if_the_runtime_reports_them() -> None:
    clock = FakeClock()
    (timed,) = measure([Scripted(clock, repeat(TICK), device_ms=1.5)], runs=10, clock=clock)
    assert timed.reported_ms("device_ms") == (1.5,) * 10
    assert timed.reported_ms("enqueue_ms") is None


def test_reported_times_are_kept_with_their_run() -> None:
    clock = FakeClock()
    reported = (DeviceTimes(1.0 * n, 2.0 * n, None if n == 12 else 3.0 * n) for n in count(1))

    def run() -> DeviceTimes:
        clock.time += TICK
        return next(reported)

    (timed,) = measure([run], runs=2, clock=clock)
    first = timed.warm_up.runs + SETTLING_RUNS + 1
    second = first + SETTLING_RUNS + 1
    assert timed.reported_ms("device_ms") == (first, second)
    assert timed.reported_ms("enqueue_ms") == (2 * first, 2 * second)


def test_a_time_that_one_run_lacks_has_no_statistics() -> None:
    timed = Measurement(
        ((1.0, 1.0),), (DeviceTimes(1.0, 2.0), DeviceTimes(1.0, None)), 1.0, WarmUp(1, 1.0, 1.0, stable=True)
    )
    assert timed.reported_ms("device_ms") == (1.0, 1.0)
    assert timed.reported_ms("enqueue_ms") is None


def test_throughput_includes_the_time_between_runs() -> None:
    clock = Waiting()
    (timed,) = measure([Scripted(clock, repeat(3 * TICK))], runs=10, clock=clock)
    assert set(timed.host_ms) == {4e3 * TICK}  # a run, and the reading of the clock after it
    assert timed.seconds == 2 * (5 * (4 + 1) * TICK)  # two blocks: a reading before each of five runs
    assert timed.runs_per_second == 10 / timed.seconds


class Waiting(FakeClock):
    """Every reading takes a tick."""

    def now(self) -> float:
        self.time += TICK
        return self.time
