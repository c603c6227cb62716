"""The routing rule in numpy and in PyTorch, compared with the formula from docs/op.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acm_export.base.errors import OpError
from acm_export.modules.gated_learners import learner_counts as torch_counts
from acm_export.modules.gated_learners import margins as torch_margins
from acm_export.op import MAX_LEARNERS, Signature
from acm_export.op.reference import activate, gated_learners
from acm_export.op.routing import learner_counts, margins

INF, NAN = float("inf"), float("nan")
FINITE = st.floats(-1e4, 1e4, width=32)
TIED = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
ANY = st.one_of(FINITE, TIED, st.sampled_from([INF, -INF, NAN, 3e38, -3e38]))


@st.composite
def routings(draw: st.DrawFn, values: st.SearchStrategy[float], taus: st.SearchStrategy[float]) -> Any:
    """Gate logits [T, C], thresholds [N] and min_learners."""
    n = draw(st.one_of(st.integers(1, 6), st.just(MAX_LEARNERS)))
    minimum = draw(st.integers(0, n))
    tokens = draw(st.integers(0, 5))
    logits = draw(hnp.arrays(np.float32, (tokens, n - minimum + 1), elements=values))
    thresholds = draw(hnp.arrays(np.float32, n, elements=taus))
    return logits, thresholds, minimum


def counts_by_formula(logits: Any, thresholds: Any, minimum: int) -> list[int]:
    """Token by token, learner by learner, in Python floats."""
    counts = []
    for z in logits.astype(np.float64).tolist():
        count = minimum
        while count < len(thresholds) and not any(np.isnan(z)):
            choice = count + 1 - minimum
            wanted, unwanted = max(z[choice:]), max(z[:choice])
            if not wanted - unwanted > float(thresholds[count]):  # inf - inf is NaN, which is above nothing
                break
            count += 1
        counts.append(count)
    return counts


def both(logits: Any, thresholds: Any, minimum: int) -> list[int]:
    """The counts of numpy, which PyTorch's must equal."""
    ours = learner_counts(np.asarray(logits, np.float32), np.asarray(thresholds, np.float32), minimum)
    theirs = torch_counts(
        torch.tensor(np.asarray(logits, np.float32)), torch.tensor(np.asarray(thresholds, np.float32)), minimum
    )
    assert ours.dtype == np.int32
    assert theirs.dtype == torch.int32
    np.testing.assert_array_equal(ours, theirs.numpy())
    return ours.tolist()


@given(routings(TIED | st.sampled_from([INF, -INF, NAN]), st.sampled_from([0.0, 0.5, -1.0, INF, -INF, 1.5])))
def test_counts_follow_the_formula_where_float32_is_exact(case: Any) -> None:
    logits, thresholds, minimum = case
    assert both(logits, thresholds, minimum) == counts_by_formula(logits, thresholds, minimum)


@given(routings(ANY, ANY))
def test_numpy_and_torch_agree_on_any_input(case: Any) -> None:
    logits, thresholds, minimum = case
    both(logits, thresholds, minimum)
    np.testing.assert_array_equal(margins(logits), torch_margins(torch.from_numpy(logits)).numpy())


@given(routings(st.one_of(FINITE, TIED, st.sampled_from([3e38, -3e38, INF, -INF])), st.just(0.0)))
def test_threshold_zero_is_the_first_argmax(case: Any) -> None:
    logits, thresholds, minimum = case
    assert both(logits, thresholds, minimum) == (minimum + logits.argmax(-1)).tolist()


@given(routings(st.one_of(FINITE, TIED), st.just(0.0)))
def test_margins_never_increase_with_the_learner_number(case: Any) -> None:
    assert (np.diff(margins(case[0]), axis=-1) <= 0).all()


@given(routings(st.one_of(FINITE, TIED), st.just(0.0)), st.one_of(FINITE, TIED))
def test_a_constant_threshold_runs_exactly_the_learners_above_it(case: Any, tau: float) -> None:
    logits, thresholds, minimum = case
    above = (margins(logits) > np.float32(tau)).sum(-1)
    assert both(logits, np.full_like(thresholds, tau), minimum) == (minimum + above).tolist()


@given(routings(FINITE, st.just(0.0)), st.integers(0, 64), st.sampled_from([0.0, -INF, INF]))
def test_nan_anywhere_gives_min_learners(case: Any, position: int, tau: float) -> None:
    logits, thresholds, minimum = case
    logits[..., position % logits.shape[-1]] = NAN
    assert both(logits, np.full_like(thresholds, tau), minimum) == [minimum] * len(logits)


@given(routings(FINITE, st.just(0.0)))
def test_infinite_thresholds_run_no_learner_or_all_learners(case: Any) -> None:
    logits, thresholds, minimum = case
    assert both(logits, np.full_like(thresholds, INF), minimum) == [minimum] * len(logits)
    assert both(logits, np.full_like(thresholds, -INF), minimum) == [len(thresholds)] * len(logits)


@given(routings(FINITE, FINITE), st.integers(1, 64), st.integers(0, 64))
def test_learners_after_a_gap_do_not_run(case: Any, gap: int, bound: int) -> None:
    logits, thresholds, minimum = case
    gap = min(max(gap, minimum + 1), len(thresholds) + 1)  # number of the learner that never runs
    thresholds[: gap - 1], thresholds[gap - 1 :] = -INF, -INF
    thresholds[gap - 1 : gap] = INF
    assert both(logits, thresholds, minimum) == [gap - 1] * len(logits)
    thresholds[min(bound, len(thresholds)) :] = INF
    assert all(count <= max(bound, minimum) for count in both(logits, thresholds, minimum))


@given(routings(FINITE, FINITE), st.sampled_from([NAN, INF, -INF, 1e9]))
def test_thresholds_of_learners_that_always_run_are_ignored(case: Any, value: float) -> None:
    logits, thresholds, minimum = case
    before = both(logits, thresholds, minimum)
    thresholds[:minimum] = value
    assert both(logits, thresholds, minimum) == before


def test_a_nan_threshold_stops_at_its_learner() -> None:
    assert both([[0, 1, 2, 3]], [-INF, NAN, -INF], 0) == [1]


@pytest.mark.parametrize(
    ("logits", "tau", "count"),
    [
        ([INF, INF, 0], -INF, 0),  # inf - inf
        ([-INF, -INF, -INF], -INF, 0),
        ([-INF, -INF, 5], 1e9, 2),
        ([-INF, 5, INF], 1e9, 2),
        ([0, INF, INF], 0, 1),
        ([0, INF, -INF], -INF, 1),  # the second margin is -inf, which is not above -inf
        ([3e38, -3e38, 0], -INF, 2),
        ([1, 1, 1], 0, 0),
        ([1, 1, 1], -1e-30, 2),
    ],
)
def test_infinite_and_tied_logits(logits: list[float], tau: float, count: int) -> None:
    assert both([logits], [tau, tau], 0) == [count]


def test_a_margin_equal_to_its_threshold_does_not_run() -> None:
    assert both([[0, 1]], [1], 0) == [0]
    assert both([[0, 1]], [np.nextafter(np.float32(1), np.float32(0))], 0) == [1]


@pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 0), (2, 3), (2, 1, 3)])
def test_counts_have_the_leading_shape(leading: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*leading, 4)).astype(np.float32)
    ours = learner_counts(logits, np.zeros(3, np.float32), 0)
    theirs = torch_counts(torch.from_numpy(logits), torch.zeros(3), 0)
    assert ours.shape == tuple(theirs.shape) == leading
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "silu", "identity"])
def test_the_reference_activations_match_torch(name: str) -> None:
    v = torch.linspace(-30, 30, 301, dtype=torch.float64)
    functions = torch.nn.functional
    expected = {
        "gelu": functions.gelu(v),
        "gelu_tanh": functions.gelu(v, approximate="tanh"),
        "relu": functions.relu(v),
        "silu": functions.silu(v),
        "identity": v,
    }
    np.testing.assert_allclose(activate(name, v.numpy()), expected[name].numpy(), rtol=1e-12, atol=1e-12)


def test_the_reference_adds_the_bias_row_of_the_count_and_only_the_learners_that_run() -> None:
    signature = Signature(2, 0, "relu")
    w1, b1 = np.array([[1.0, 2.0]]), np.array([0.0, 1.0])
    w2, b2 = np.array([[10.0], [100.0]]), np.array([[0.1], [0.2], [0.3]])
    logits = np.eye(3, dtype=np.float32)
    y, counts = gated_learners(np.ones((3, 1)), logits, np.zeros(2), w1, b1, w2, b2, signature)
    assert counts.tolist() == [0, 1, 2]
    np.testing.assert_allclose(y[:, 0], [0.1, 10.2, 310.3])


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((0, 0, "gelu"), "0"),
        ((65, 0, "gelu"), "65"),
        ((4, 5, "gelu"), "5"),
        ((4, -1, "gelu"), "-1"),
        ((4, 0, "tanh"), "tanh"),
    ],
)
def test_a_signature_out_of_range_is_refused_with_the_value(arguments: tuple[int, int, str], found: str) -> None:
    with pytest.raises(OpError, match=found):
        Signature(*arguments)
