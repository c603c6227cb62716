"""Summaries of margins: merging, quantiles, and shares from marginal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_files import LAYERS
from hypothesis import given
from hypothesis import strategies as st

from acm_export.calibration.families import ModelMargins, expected_budget, model_margins, thresholds_for_shares
from acm_export.calibration.margins import (
    MarginSummary,
    bin_start,
    merge,
    ordered_bits,
    quantile,
    share_above,
    summarize,
)
from acm_export.onnx_file.thresholds import by_layer
from acm_export.op.routing import learner_counts, margins
from acm_export.verification.measurement import js_divergence

Floats = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40)
Finite = st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=200)


def same(a: MarginSummary, b: MarginSummary) -> bool:
    numbers = [(s.lowest, s.highest, s.undefined, s.below, s.above) for s in (a, b)]
    return np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts) and numbers[0] == numbers[1]


@given(st.lists(Floats, min_size=1, max_size=5), st.randoms())
def test_merging_gives_the_same_in_any_order_and_grouping(parts: list[list[float]], random: object) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    at_once = summarize(np.concatenate(arrays))
    summaries = [summarize(array) for array in arrays]
    random.shuffle(summaries)  # type: ignore[attr-defined]
    assert same(merge(summaries), at_once)
    one_by_one = MarginSummary()
    for summary in summaries:
        one_by_one = merge([one_by_one, summary])
    assert same(one_by_one, at_once)


@given(Floats)
def test_every_token_is_counted_once(values: list[float]) -> None:
    array = np.array(values, np.float32)
    summary = summarize(array)
    assert summary.tokens + summary.undefined == array.size
    assert summary.undefined == np.isnan(array).sum()
    assert (summary.counts > 0).all()


@given(Finite)
def test_integers_keep_the_order_of_the_numbers_and_bins_hold_their_numbers(values: list[float]) -> None:
    array = np.array(values, np.float32)
    bits = ordered_bits(array)
    order = np.argsort(array, kind="stable")
    assert (np.diff(bits[order].astype(np.int64)) >= 0).all() or (array == 0).any()  # -0.0 lies below 0.0
    keys = (bits >> np.uint32(16)).astype(np.uint16)
    assert (bin_start(keys) <= array.astype(np.float64)).all() or (array < 0).any()
    edges = np.sort(np.stack([bin_start(keys), bin_start(keys.astype(np.int64) + 1)]), axis=0)
    assert (edges[0] <= array).all()
    assert (array <= edges[1]).all()


@given(Finite, st.floats(0, 1))
def test_quantiles_match_numpy_within_one_bin(values: list[float], share: float) -> None:
    array = np.array(values, np.float32)
    found = quantile(summarize(array), share)
    ordered = np.sort(array)
    below = ordered[max(int(np.floor(share * array.size)) - 1, 0)]
    above = ordered[min(int(np.ceil(share * array.size)), array.size - 1)]
    slack = np.abs(array).max() / 64
    assert below - slack <= found <= above + slack


def test_quantiles_of_many_margins_are_within_one_bin_of_numpy() -> None:
    array = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 3
    summary = summarize(array)
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert quantile(summary, share) == pytest.approx(np.quantile(array, share), abs=0.02, rel=1 / 64)


@given(Finite, st.floats(-1e4, 1e4))
def test_shares_above_fall_with_the_threshold_and_end_at_none_and_all(values: list[float], threshold: float) -> None:
    summary = summarize(np.array(values, np.float32))
    assert share_above(summary, summary.highest) == 0
    assert share_above(summary, np.nextafter(summary.lowest, -np.inf)) == 1
    assert share_above(summary, threshold) >= share_above(summary, threshold + 1)


def test_a_constant_margin_is_detected() -> None:
    assert summarize(np.full(5, 1.5, np.float32)).constant
    assert not summarize(np.array([1.5, 1.6], np.float32)).constant
    assert not summarize(np.array([1.5, np.inf], np.float32)).constant


def observed_tokens(seed: int, tokens: int = 300) -> tuple[ModelMargins, dict[str, np.ndarray]]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    logits = {
        e.name: rng.standard_normal((tokens, e.num_learners - e.min_learners + 1)).astype(np.float32) for e in LAYERS
    }
    summaries = tuple(tuple(summarize(column) for column in margins(logits[e.name]).T) for e in LAYERS)
    return model_margins(LAYERS, summaries, summaries), logits


@given(st.integers(0, 100), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_marginal_shares_are_the_shares_of_tokens_that_run_a_learner(seed: int, wanted: list[float]) -> None:
    observed, logits = observed_tokens(seed)
    ordered = np.sort(wanted)[::-1]
    thresholds = thresholds_for_shares(observed, [ordered, ordered[:2]])
    for layer in LAYERS:
        part = by_layer(LAYERS, thresholds)[layer.name]
        counts = learner_counts(logits[layer.name], part, layer.min_learners)
        for g, margin in enumerate(margins(logits[layer.name]).T):
            n = layer.min_learners + g + 1
            assert (counts >= n).mean() == (margin > part[n - 1]).mean()


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_more_tokens_never_raise_a_threshold(seed: int, first: float, second: float) -> None:
    observed, _ = observed_tokens(seed)
    low, high = sorted((first, second))
    few, many = (
        thresholds_for_shares(observed, [np.array([s, s * s, s**3, s**4]), np.array([s, s / 2])]) for s in (low, high)
    )
    assert (many <= few).all()


def test_expected_and_measured_budgets_agree_for_independent_layers() -> None:
    observed, logits = observed_tokens(1, tokens=5000)
    thresholds = thresholds_for_shares(observed, [np.array([0.9, 0.6, 0.3, 0.1]), np.array([0.5, 0.25])])
    executed = possible = 0.0
    for layer in LAYERS:
        counts = learner_counts(logits[layer.name], by_layer(LAYERS, thresholds)[layer.name], layer.min_learners)
        executed += layer.learner_flops * counts.sum()
        possible += layer.learner_flops * layer.num_learners * counts.size
    assert expected_budget(observed, thresholds) == pytest.approx(executed / possible, abs=0.002)
    assert expected_budget(observed, observed.low) == 1
    assert np.isfinite(observed.low).all()
    assert np.isfinite(observed.high).all()


@given(st.integers(0, 1000), st.sampled_from([1.0, 30.0]))
def test_the_divergence_of_class_scores_is_that_of_the_definition(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 3, 5)) * scale
    for row, found in enumerate(js_divergence(a, b)):
        p, q = (np.exp(z[row] - z[row].max()) / np.exp(z[row] - z[row].max()).sum() for z in (a, b))
        middle = (p + q) / 2
        expected = sum(0.5 * w * np.log(w / m) for s in (p, q) for w, m in zip(s, middle, strict=True) if w > 0)
        assert found == pytest.approx(expected, abs=1e-9)
        assert -1e-12 <= found <= np.log(2) + 1e-12
    assert js_divergence(a, a) == pytest.approx(np.zeros(3), abs=1e-12)
