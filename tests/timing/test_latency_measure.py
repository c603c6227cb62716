"""Statistics, warm-up and blocks, with exact times: only the scripted runs advance the clock."""

from __future__ import annotations

from itertools import chain, count, repeat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.timing import measure as measuring
from acm_export.timing.backends.backend import DeviceTimes
from acm_export.timing.measure import SETTLE_SECONDS, SETTLING_RUNS, Measurement, WarmUp, measure, warm_up
from acm_export.timing.request import TimingOptions
from acm_export.timing.statistics import LinearFit, fit_line, percentile, percentiles, summarize

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


def test_statistics_of_known_numbers() -> None:
    s = summarize([4.0, 2.0, 6.0, 8.0])
    assert (s.mean, s.p50, s.p90, s.p95, s.p99, s.max, s.n) == (5.0, 4.0, 8.0, 8.0, 8.0, 8.0, 4)
    assert s.std == pytest.approx((20 / 3) ** 0.5)
    assert s.variation == pytest.approx((20 / 3) ** 0.5 / 5)


def test_one_run_has_no_standard_deviation_and_no_runs_no_statistics() -> None:
    assert summarize([3.0]).std is None
    assert summarize([3.0]).variation == 0
    with pytest.raises(ValueError, match="no run"):
        summarize([])


def test_percentiles_of_one_to_a_hundred_are_the_numbers_themselves() -> None:
    assert [percentile(range(1, 101), p) for p in (1, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 99, 100]


def test_percentiles_need_not_be_whole_numbers() -> None:
    assert percentile(range(1, 1001), 99.9) == 999
    assert percentile(range(1, 10_001), 99.99) == 9999
    assert percentiles([3.0, 1.0, 2.0], [99.9, 50, 0.1]) == {"p99.9": 3.0, "p50": 2.0, "p0.1": 1.0}


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_smallest_time_that_enough_times_do_not_exceed(times: list[float], percent: int) -> None:
    found = percentile(sorted(times), percent)
    assert found in times
    assert 100 * sum(t <= found for t in times) >= percent * len(times)
    smaller = [t for t in times if t < found]
    if smaller:
        assert 100 * sum(t <= max(smaller) for t in times) < percent * len(times)


def test_a_line_through_points_that_lie_on_it() -> None:
    line = fit_line([(0.25, 3.0), (0.5, 4.0), (1.0, 6.0)])
    assert (line.fixed_ms, line.ms_per_budget, line.r2) == (pytest.approx(2.0), pytest.approx(4.0), pytest.approx(1.0))


def test_r2_falls_with_the_scatter_around_the_line() -> None:
    line = fit_line([(0.0, 1.0), (0.5, 5.0), (1.0, 3.0)])
    assert (line.fixed_ms, line.ms_per_budget) == (pytest.approx(2.0), pytest.approx(2.0))
    assert line.r2 == pytest.approx(2 / 8)


def test_no_line_through_fewer_than_three_budgets_and_no_r2_without_variance() -> None:
    assert fit_line([(0.5, 1.0), (1.0, 2.0), (1.0, 3.0)]) == LinearFit(None, None, None)
    assert fit_line([(0.0, 2.0), (0.5, 2.0), (1.0, 2.0)]) == LinearFit(2.0, 0.0, None)


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
    assert measuring.MAX_WARM_UP_SECONDS <= ended.seconds < 8


def test_one_run_longer_than_the_limit_ends_the_warm_up() -> None:
    clock = FakeClock()
    ended = warm_up(Scripted(clock, repeat(7.0)), clock)
    assert (ended.runs, ended.stable, ended.run_seconds) == (1, False, 7.0)


def test_warm_up_is_bounded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MAX_WARM_UP_RUNS", 7)
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
    options = TimingOptions(runs=4, warm_up=1.0)
    runs = [Scripted(clock, repeat(ticks * TICK)) for ticks in (2, 4)]
    model, baseline = measure(runs[:1], runs[1:], options, clock)
    assert baseline is not None
    assert (model.warm_up.runs, baseline.warm_up.runs) == (32, 16)


def test_blocks_of_model_and_baseline_alternate_in_order() -> None:
    clock, log = FakeClock(), list[str]()
    model = Scripted(clock, repeat(2 * TICK), "m", log)
    baseline = Scripted(clock, repeat(4 * TICK), "b", log)
    timed, beside = measure([model], [baseline], TimingOptions(runs=40), clock)
    assert beside is not None
    runs = log[timed.warm_up.runs + beside.warm_up.runs :]
    order = [name for index, name in enumerate(runs) if index == 0 or runs[index - 1] != name]
    assert order == list("mbmbmbmbm")  # m b, b m, m b, ...: neighbours of one kind run into each other
    assert [len(block) for block in timed.blocks] == [5] * 8
    assert runs.count("m") == runs.count("b") == 40 + 8 * SETTLING_RUNS
    assert set(timed.host_ms) == {2e3 * TICK}
    assert set(beside.host_ms) == {4e3 * TICK}
    assert clock.slept == [SETTLE_SECONDS] * 16


def test_a_duration_is_spread_over_the_blocks() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK))], None, TimingOptions(seconds=2.0), clock)
    assert [len(block) for block in timed.blocks] == [16] * 8  # 16 runs of 1/64 s are a quarter of a second
    assert timed.reported_ms("device_ms") is None


def test_slow_models_get_fewer_blocks_and_at_least_one_run_in_each() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(8.0))], None, TimingOptions(seconds=2.0), clock)
    assert [len(block) for block in timed.blocks] == [1, 1]


@pytest.mark.parametrize("runs", [1, 2, 7, 11, 39, 41, 100])
def test_exactly_the_requested_runs_are_timed(runs: int) -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK))], None, TimingOptions(runs=runs), clock)
    assert len(timed.host_ms) == runs
    assert len(timed.blocks) <= measuring.MAX_BLOCKS


def test_settling_runs_do_not_count() -> None:
    clock = FakeClock()
    block = [32 * TICK, 16 * TICK, *([2 * TICK] * 5)]  # two settling runs, then five that count
    run = Scripted(clock, chain([2 * TICK] * 10, block, block))
    timed, _ = measure([run], None, TimingOptions(runs=10), clock)
    assert timed.warm_up.runs == 10
    assert set(timed.host_ms) == {2e3 * TICK}


def test_drift_compares_the_last_block_with_the_first() -> None:
    clock = FakeClock()
    script = chain(repeat(4 * TICK, 10 + 7), repeat(5 * TICK))
    timed, _ = measure([Scripted(clock, script)], None, TimingOptions(runs=10), clock)
    assert timed.drift == pytest.approx(0.25)


def test_device_times_are_kept_if_the_runtime_reports_them() -> None:
    clock = FakeClock()
    timed, _ = measure([Scripted(clock, repeat(TICK), device_ms=1.5)], None, TimingOptions(runs=10), clock)
    assert timed.reported_ms("device_ms") == (1.5,) * 10
    assert timed.reported_ms("enqueue_ms") is None


def test_reported_times_are_kept_with_their_run() -> None:
    clock = FakeClock()
    reported = (DeviceTimes(1.0 * n, 2.0 * n, None if n == 12 else 3.0 * n) for n in count(1))

    def run() -> DeviceTimes:
        clock.time += TICK
        return next(reported)

    timed, _ = measure([run], None, TimingOptions(runs=2), clock)
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
    timed, _ = measure([Scripted(clock, repeat(3 * TICK))], None, TimingOptions(runs=10), clock)
    assert set(timed.host_ms) == {4e3 * TICK}  # a run, and the reading of the clock after it
    assert timed.seconds == 2 * (5 * (4 + 1) * TICK)  # two blocks: a reading before each of five runs
    assert timed.runs_per_second == 10 / timed.seconds


class Waiting(FakeClock):
    """Every reading takes a tick."""

    def now(self) -> float:
        self.time += TICK
        return self.time
