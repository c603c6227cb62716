"""Statistics of known times, and the line of time against β."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.timing.statistics import LinearFit, fit_line, percentile, percentiles, summarize

TICK = 1 / 64
"""Binary fractions add up exactly."""


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
