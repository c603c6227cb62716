"""Isotonic regression, families of thresholds, and the closed loop, on models with known answers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.base.errors import CalibrationError
from acm_export.calibration.blend import Blend
from acm_export.calibration.closed_loop import TOLERANCE, ClosedLoop
from acm_export.calibration.families import (
    ContinuousFamily,
    ModelMargins,
    ThresholdFamily,
    expected_budget,
    model_margins,
)
from acm_export.calibration.knots import knot_budgets
from acm_export.calibration.margins import summarize
from acm_export.calibration.same_count import SameCount
from acm_export.calibration.sensitivity import Sensitivity, measure_benefits, non_decreasing, ordered_both_ways
from acm_export.calibration.table import BETWEEN, TableBuilder, as_table
from acm_export.calibration.uniform import Uniform
from acm_export.onnx_file.manifest import LayerEntry
from acm_export.onnx_file.thresholds import by_layer
from acm_export.op.routing import learner_counts, margins
from acm_export.verification.measurement import Measurement, budget_of

TWO = tuple(LayerEntry(name, 8, 4, 2, 0, "gelu", 64, 8, 3) for name in ("weighty", "idle"))


class Additive:
    """A model whose losses add up: every learner that a token of a layer lacks costs that layer's weight."""

    def __init__(self, weights: tuple[float, ...], tokens: int = 400, shift: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.logits = [rng.standard_normal((tokens, 5)).astype(np.float32) * 2 for _ in TWO]
        self.weights, self.shift, self.runs = weights, shift, 0
        summaries = tuple(tuple(summarize(column) for column in margins(z).T) for z in self.logits)
        moved = (self.logits[0], self.logits[1] + shift * np.arange(5, dtype=np.float32))  # where nothing runs before
        least = tuple(tuple(summarize(column) for column in margins(z).T) for z in moved)
        self.observed: ModelMargins = model_margins(TWO, summaries, least)

    def measure(self, thresholds: np.ndarray) -> Measurement:  # type: ignore[type-arg]
        self.runs += 1
        histograms, divergence, lacking = [], 0.0, 0.0
        for layer, z, weight in zip(TWO, self.logits, self.weights, strict=True):
            moved = z + self.shift * lacking * np.arange(5, dtype=np.float32)  # margins that follow what ran before
            counts = learner_counts(moved, by_layer(TWO, thresholds)[layer.name], 0)
            lacking = 1 - counts.mean() / 4
            divergence += weight * float((4 - counts).mean())
            histograms.append(tuple(np.bincount(counts, minlength=5).tolist()))
        return Measurement(tuple(histograms), budget_of(TWO, histograms), 0.01, divergence, None, len(self.logits[0]))

    def loop(self, family: ThresholdFamily) -> ClosedLoop:
        return ClosedLoop(
            ContinuousFamily(family, self.observed.high), self.measure, lambda t: expected_budget(self.observed, t)
        )

    def sensitivity(self) -> Sensitivity:
        return Sensitivity(self.observed, measure_benefits(self.observed, lambda t: self.measure(t).divergence))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_pooling_gives_the_closest_ordered_sequence_with_the_same_sum(values: list[float]) -> None:
    array = np.array(values)
    found = non_decreasing(array)
    assert (np.diff(found) >= -1e-9).all()
    assert found.sum() == pytest.approx(array.sum(), abs=1e-6)
    for other in (np.sort(array), np.full_like(array, array.mean()), found + 0.1):
        assert ((found - array) ** 2).sum() <= ((other - array) ** 2).sum() + 1e-6
    assert non_decreasing(np.sort(array)) == pytest.approx(np.sort(array))


@given(st.integers(0, 1000), st.integers(1, 5))
def test_both_orders_hold_and_ordered_numbers_are_unchanged(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    found = ordered_both_ways(rng.standard_normal((rows, 4)))
    assert (np.diff(found, axis=1) >= 0).all()
    assert (np.diff(found, axis=0) <= 0).all()
    assert ordered_both_ways(found) == pytest.approx(found, abs=1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_families_are_monotone_and_reach_from_none_to_all(first: float, second: float) -> None:
    model = Additive((1.0, 0.1), tokens=60)
    sensitivity, uniform = model.sensitivity(), Uniform(model.observed)
    low, high = sorted((first, second))
    families = (sensitivity, uniform, SameCount(model.observed), Blend(model.observed, sensitivity, uniform))
    for family in (*families, *(ContinuousFamily(family, model.observed.high) for family in families)):
        assert (family.thresholds(high) <= family.thresholds(low)).all()
        assert model.measure(family.thresholds(0)).budget == 0
        assert model.measure(family.thresholds(1)).budget == 1


def test_sensitivity_spends_on_the_layer_that_matters() -> None:
    model = Additive((1.0, 0.01))
    loop = model.loop(model.sensitivity())
    weighty, idle = loop.solve(0.5).measured.histograms
    missed = TOLERANCE * 400 * 4 * 2
    assert weighty[4] >= 400 - missed
    assert idle[0] >= 400 - missed


def test_with_equal_layers_sensitivity_costs_no_more_than_uniform() -> None:
    model = Additive((1.0, 1.0))
    mine, other = (model.loop(family).solve(0.5).measured for family in (model.sensitivity(), Uniform(model.observed)))
    assert mine.divergence <= other.divergence + 4 * 2 * TOLERANCE


def test_whole_counts_give_every_token_the_same() -> None:
    model = Additive((1.0, 1.0))
    same = SameCount(model.observed)
    for count, share in enumerate(same.whole_counts()):
        for histogram in model.measure(same.thresholds(share)).histograms:
            assert histogram[count] == 400


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.61, 0.97, 1.0])
def test_the_loop_meets_budgets_although_layers_depend_on_each_other(budget: float) -> None:
    model = Additive((1.0, 0.5), shift=3.0)
    solution = model.loop(Uniform(model.observed)).solve(budget)
    assert solution.measured.budget == pytest.approx(budget, abs=TOLERANCE)
    assert solution.rounds <= 12


def test_refusals_name_the_reachable_budgets() -> None:
    model = Additive((1.0, 1.0), tokens=10)
    with pytest.raises(CalibrationError, match=r"jumps from 0\.5 to 0\.5") as refusal:
        model.loop(Uniform(model.observed)).solve(0.506)
    assert "give about" in str(refusal.value.hint)


def test_the_table_is_monotone_meets_its_budgets_and_loses_to_no_rival() -> None:
    model = Additive((1.0, 0.2), shift=1.0)
    uniform, same = Uniform(model.observed), SameCount(model.observed)
    candidates = [model.sensitivity(), uniform, same]
    builder = TableBuilder(
        candidates, ["uniform", "same count"], model.measure, lambda t: expected_budget(model.observed, t)
    )
    knots, comparisons = builder.build([0.37, 0.62], [])
    table = as_table(knots, TWO)  # which checks that thresholds fall
    assert table.smallest == 0
    assert table.largest == 1
    assert not [c for c in comparisons if c.lost_to]
    for low, high in pairwise(knots):
        middle = (low.budget + high.budget) / 2
        measured = model.measure(np.concatenate(list(table.at(middle).values()))).budget
        assert measured == pytest.approx(middle, abs=max(3 * BETWEEN, (high.budget - low.budget) / 2))
    for budget in (0.37, 0.62):
        measured = model.measure(np.concatenate(list(table.at(budget).values()))).budget
        assert measured == pytest.approx(budget, abs=2 * TOLERANCE)


def test_requested_budgets_are_knots_and_others_keep_a_distance() -> None:
    assert knot_budgets(0.1, 1.0, [0.1, 0.31, 1.0], [0.1, 0.3, 0.308, 0.5, 1.0]) == [0.5, 0.31, 0.3]


@pytest.mark.parametrize("budgets", [[0.0], [1.0], [0.001, 0.5, 0.9995]])
def test_the_ends_meet_the_budgets_next_to_them(budgets: list[float]) -> None:
    model = Additive((1.0, 0.2), tokens=100)
    candidates = [Uniform(model.observed), SameCount(model.observed)]
    builder = TableBuilder(candidates, [], model.measure, lambda t: expected_budget(model.observed, t))
    knots, _ = builder.build(budgets, [])
    assert (knots[0].budget, knots[-1].budget) == (0, 1)


@pytest.mark.parametrize("seed", range(12))
def test_building_a_table_of_few_equal_margins_terminates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Additive((1.0, 0.2), tokens=int(rng.integers(5, 30)))
    model.logits = [np.round(z) for z in model.logits]
    summaries = tuple(tuple(summarize(column) for column in margins(z).T) for z in model.logits)
    model.observed = model_margins(TWO, summaries, summaries)
    candidates = [model.sensitivity(), Uniform(model.observed), SameCount(model.observed)]
    builder = TableBuilder(candidates, [], model.measure, lambda t: expected_budget(model.observed, t))
    knots, _ = builder.build([], [])
    assert (knots[0].budget, knots[-1].budget) == (0, 1)
    as_table(knots, TWO)


@pytest.mark.parametrize("margin", [0.0, 1.0, -3e38, 1e-40])
def test_thresholds_go_beyond_margins_that_hardly_differ(margin: float) -> None:
    low, high = np.float32(margin), np.nextafter(np.float32(margin), np.float32(np.inf))
    summaries = tuple(tuple(summarize(np.array([low, high])) for _ in range(4)) for _ in TWO)
    observed = model_margins(TWO, summaries, summaries)
    assert (observed.low < low).all()
    assert (observed.high > high).all()


def test_budgets_beyond_the_largest_are_refused() -> None:
    model = Additive((1.0, 1.0), tokens=50)
    uniform = Uniform(model.observed)

    class Half:
        name = "half"

        def thresholds(self, share: float) -> np.ndarray:  # type: ignore[type-arg]
            return uniform.thresholds(share / 2)

    with pytest.raises(CalibrationError, match=r"0\.99 cannot be reached: the largest is"):
        model.loop(Half()).solve(0.99)
