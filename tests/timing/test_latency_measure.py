"""Statistics, warm-up and blocks, exactly: with a clock that only the scripted runs move."""

from __future__ import annotations

from itertools import chain, count, repeat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.timing import measure as measuring
from acm_export.timing import warm_up as warming
from acm_export.timing.measure import SETTLE_SECONDS, SETTLING_RUNS, Effort, Timed, measure
from acm_export.timing.runtime import Times
from acm_export.timing.statistics import Line, fit, percentile, summarize
from acm_export.timing.warm_up import warm_up

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
    """A runtime whose runs take what the script says, the last time for ever."""

    def __init__(
        self, clock: FakeClock, script: Iterable[float], name: str = "", log: list[str] | None = None,
        device_ms: float | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.script, self.runs = clock, iter(script), 0
        self.name, self.log, self.device_ms = name, log, device_ms

    def __call__(self) -> Times:
        self.clock.time += next(self.script)
        self.runs += 1
        if self.log is not None:
            self.log.append(self.name)
        return Times(self.device_ms)


def test_statistics_of_known_numbers() -> None:
    s = summarize([4.0, 2.0, 6.0, 8.0])
    assert (s.mean, s.p50, s.p90, s.p95, s.p99, s.max, s.n) == (5.0, 4.0, 8.0, 8.0, 8.0, 8.0, 4)
    assert s.std == pytest.approx((20 / 3) ** 0.5)
    assert s.variation == pytest.approx((20 / 3) ** 0.5 / 5)


def test_one_run_has_no_standard_deviation_and_none_no_statistics() -> None:
    assert summarize([3.0]).std is None
    assert summarize([3.0]).variation == 0
    with pytest.raises(ValueError, match="no run"):
        summarize([])


def test_percentiles_of_one_to_a_hundred_are_the_numbers_themselves() -> None:
    assert [percentile(range(1, 101), p) for p in (1, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 99, 100]


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_smallest_time_that_enough_times_do_not_exceed(times: list[float], percent: int) -> None:
    found = percentile(sorted(times), percent)
    assert found in times
    assert 100 * sum(t <= found for t in times) >= percent * len(times)
    smaller = [t for t in times if t < found]
    if smaller:
        assert 100 * sum(t <= max(smaller) for t in times) < percent * len(times)


def test_a_line_through_points_that_lie_on_it() -> None:
    line = fit([(0.25, 3.0), (0.5, 4.0), (1.0, 6.0)])
    assert (line.fixed_ms, line.ms_per_budget, line.r2) == (pytest.approx(2.0), pytest.approx(4.0), pytest.approx(1.0))


def test_r2_falls_with_the_scatter_around_the_line() -> None:
    line = fit([(0.0, 1.0), (0.5, 5.0), (1.0, 3.0)])
    assert (line.fixed_ms, line.ms_per_budget) == (pytest.approx(2.0), pytest.approx(2.0))
    assert line.r2 == pytest.approx(2 / 8)


def test_no_line_through_fewer_than_three_budgets_and_no_r2_without_variance() -> None:
    assert fit([(0.5, 1.0), (1.0, 2.0), (1.0, 3.0)]) == Line(None, None, None)
    assert fit([(0.0, 2.0), (0.5, 2.0), (1.0, 2.0)]) == Line(2.0, 0.0, None)


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


def test_warm_up_gives_up_after_its_time_and_says_so() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, (2.0**n for n in range(-6, 20))), clock)
    assert not ended.stable
    assert warming.MOST_SECONDS <= ended.seconds < 8


def test_one_run_longer_than_the_bound_ends_the_warm_up() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(7.0)), clock)
    assert (ended.runs, ended.stable, ended.run_seconds) == (1, False, 7.0)


def test_warm_up_is_bounded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "MOST_RUNS", 7)
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(0.0)), clock)
    assert (ended.runs, ended.stable) == (7, False)


def test_blocks_of_model_and_baseline_alternate_in_order() -> None:
    clock, log = FakeClock(), list[str]()
    model = Scripted(clock, repeat(2 * TICK), "m", log)
    baseline = Scripted(clock, repeat(4 * TICK), "b", log)
    timed, beside = measure([model], [baseline], Effort(runs=40), clock)
    assert beside is not None
    runs = log[timed.warm_up.runs + beside.warm_up.runs :]
    order = [name for index, name in enumerate(runs) if index == 0 or runs[index - 1] != name]
    assert order == list("mbmbmbmbm")  # m b, b m, m b, ...: neighbours of one kind run into each other
    assert [len(block) for block in timed.blocks] == [5] * 8
    assert runs.count("m") == runs.count("b") == 40 + 8 * SETTLING_RUNS
    assert set(timed.host_ms) == {2e3 * TICK}
    assert set(beside.host_ms) == {4e3 * TICK}
    assert clock.slept == [SETTLE_SECONDS] * 16


def test_a_duration_is_spread_over_the_blocks_of_each_side() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK))], None, Effort(seconds=2.0), clock)
    assert [len(block) for block in timed.blocks] == [16] * 8  # 16 runs of 1/64 s are a quarter of a second
    assert timed.told_ms("device_ms") is None


def test_slow_models_get_fewer_blocks_and_at_least_one_run_in_each() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(8.0))], None, Effort(seconds=2.0), clock)
    assert [len(block) for block in timed.blocks] == [1, 1]


@pytest.mark.parametrize("runs", [1, 2, 7, 11, 39, 41, 100])
def test_so_many_runs_as_were_asked_for_are_timed(runs: int) -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK))], None, Effort(runs=runs), clock)
    assert len(timed.host_ms) == runs
    assert len(timed.blocks) <= measuring.MOST_BLOCKS


def test_runs_that_are_not_counted_leave_no_trace_in_the_times() -> None:
    clock = FakeClock()
    block = [32 * TICK, 16 * TICK, *([2 * TICK] * 5)]  # two settling runs, then five that count
    run = Scripted(clock, chain([2 * TICK] * 10, block, block))
    timed, _ = measure([run], None, Effort(runs=10), clock)
    assert timed.warm_up.runs == 10
    assert set(timed.host_ms) == {2e3 * TICK}


def test_drift_is_that_of_the_last_block_against_the_first() -> None:
    clock = FakeClock()
    script = chain(repeat(4 * TICK, 10 + 7), repeat(5 * TICK))
    timed, _ = measure([Scripted(clock, script)], None, Effort(runs=10), clock)
    assert timed.drift == pytest.approx(0.25)


def test_device_times_are_kept_where_the_runtime_tells() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK), device_ms=1.5)], None, Effort(runs=10), clock)
    assert timed.told_ms("device_ms") == (1.5,) * 10
    assert timed.told_ms("enqueue_ms") is None


def test_every_time_that_a_runtime_tells_is_kept_beside_its_run() -> None:
    clock = FakeClock()
    told = (Times(1.0 * n, 2.0 * n, None if n == 12 else 3.0 * n) for n in count(1))

    def run() -> Times:
        clock.time += TICK
        return next(told)

    timed, _ = measure([run], None, Effort(runs=2), clock)
    first = timed.warm_up.runs + SETTLING_RUNS + 1
    second = first + SETTLING_RUNS + 1
    assert timed.told_ms("device_ms") == (first, second)
    assert timed.told_ms("enqueue_ms") == (2 * first, 2 * second)


def test_one_untold_time_is_no_statistic() -> None:
    timed = Timed(((1.0, 1.0),), (Times(1.0, 2.0), Times(1.0, None)), 1.0, warming.WarmUp(1, 1.0, 1.0, stable=True))
    assert timed.told_ms("device_ms") == (1.0, 1.0)
    assert timed.told_ms("enqueue_ms") is None


def test_throughput_counts_the_time_between_runs_too() -> None:
    clock = Waiting()
    timed, _ = measure([Scripted(clock, repeat(3 * TICK))], None, Effort(runs=10), clock)
    assert set(timed.host_ms) == {4e3 * TICK}  # a run, and the look at the clock after it
    assert timed.seconds == 2 * (5 * (4 + 1) * TICK)  # two blocks: a look before each of five runs
    assert timed.runs_per_second == 10 / timed.seconds


class Waiting(FakeClock):
    """Every look at it takes a tick."""

    def now(self) -> float:
        self.time += TICK
        return self.time
