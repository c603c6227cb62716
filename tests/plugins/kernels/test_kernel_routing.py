"""The routing kernels, interpreted, compared with the routing rule in numpy and a plain stable sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_processes import interpreted
from kernel_runs import SMALL_BLOCKS, route
from property_tests import examples

from acm_export.op.routing import learner_counts
from acm_export.plugins.kernels.plan import MAX_ROUTING_BLOCKS, ROUTING_BLOCKS

INF, NAN = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, 1.0, 1.0, -1.0, 0.5, 3e38, -3e38, 1e-45, 2e-45, INF, -INF, NAN]
TAUS = [0.0, 0.0, 0.5, -1.0, 1e-45, INF, -INF, NAN]


def check(logits: Any, thresholds: Any, minimum: int, **sizes: Any) -> np.ndarray[Any, Any]:
    """Route, compare everything, and give the counts."""
    logits, thresholds = np.asarray(logits, np.float32), np.asarray(thresholds, np.float32)
    routed = interpreted(route, logits, thresholds, minimum, **sizes)
    counts = learner_counts(logits, thresholds, minimum)
    np.testing.assert_array_equal(routed.counts, counts)
    np.testing.assert_array_equal(routed.order, np.argsort(-counts, kind="stable"))
    np.testing.assert_array_equal(routed.reach, [(counts >= n).sum() for n in range(len(thresholds) + 1)])
    assert routed.elsewhere_untouched
    return counts


def normal(tokens: int, choices: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((tokens, choices)).astype(np.float32)


@st.composite
def routings(draw: st.DrawFn) -> Any:
    """Gate logits [T, C] with some values replaced, thresholds [N] and min_learners."""
    n = draw(st.one_of(st.integers(1, 10), st.sampled_from([31, 32, 64])))
    minimum = draw(st.one_of(st.just(0), st.integers(0, n)))
    tokens = draw(st.integers(1, 50 if n - minimum < 8 else 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.standard_normal((tokens, n - minimum + 1)).astype(np.float32)
    pool = np.array(draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=4)), np.float32)
    where = rng.random(logits.shape) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
    logits[where] = rng.choice(pool, where.sum())
    taus = np.array(draw(st.lists(st.sampled_from(TAUS), min_size=1, max_size=3)), np.float32)
    return logits, rng.choice(taus, n), minimum


@given(routings(), st.sampled_from([2, 3, MAX_ROUTING_BLOCKS]))
@examples(100)
def test_routing_follows_the_rule(case: Any, max_blocks: int) -> None:
    check(*case, max_blocks=max_blocks)


@pytest.mark.parametrize("choices", [1, 2, 7, 8, 9, 31, 32, 33, 64, 65])
def test_every_number_of_choices(choices: int) -> None:
    minimum = 0 if choices > 1 else 1
    logits = normal(18, choices)
    logits[np.arange(18), np.linspace(0, choices - 1, 18).astype(int)] += 9  # from the first choice to the last
    counts = check(logits, np.zeros(minimum + choices - 1), minimum)
    assert (counts.min(), counts.max()) == (minimum, minimum + choices - 1)


# blocks of 16 tokens and at most 4 of them, so that 64 tokens are one piece for each block, 128 are two
@pytest.mark.parametrize("tokens", [15, 16, 17, 63, 64, 65, 80, 81, 96, 97, 127, 128, 129, 144, 145])
@pytest.mark.parametrize("minimum", [0, 2])
def test_tokens_around_a_block_and_around_the_most_blocks(tokens: int, minimum: int) -> None:
    counts = check(normal(tokens, 4), np.zeros(3 + minimum), minimum, max_blocks=4)
    assert set(counts.tolist()) == {minimum + c for c in range(4)}


@pytest.mark.parametrize("blocks", [15, 16, 17, 32, 33])
@pytest.mark.parametrize("pieces", [1, 2])
def test_blocks_around_a_step_of_adding_up_the_histograms(blocks: int, pieces: int) -> None:
    # 16 histograms are read at a time; of two pieces of 16 tokens the last block has one and a token of the other
    tokens = 16 * blocks * pieces - (15 if pieces == 2 else 0)
    counts = check(normal(tokens, 3), np.zeros(2), 0, max_blocks=blocks)
    assert set(counts.tolist()) == {0, 1, 2}


def skewed(counts: list[int], choices: int) -> np.ndarray[Any, Any]:
    """Gate logits [T, C] that give these counts at thresholds of 0."""
    return np.eye(choices, dtype=np.float32)[counts]


@pytest.mark.parametrize(
    "counts",
    [
        [0] * 130,
        [4] * 130,
        [0] * 129 + [4],
        [4] * 129 + [0],
        [4] + [0] * 129,
        [0] + [4] * 129,
        [2] * 70 + [3] * 60,
        [1] * 64 + [4] * 66,
        ([0] * 15 + [4]) * 8 + [2, 2],
        [0] * 50 + [4] * 30 + [0] * 50,
    ],
    ids=str,
)
@pytest.mark.parametrize("minimum", [0, 1])
def test_skewed_counts_in_blocks_of_several_pieces(counts: list[int], minimum: int) -> None:
    logits = skewed(counts, 5)
    found = check(logits, np.zeros(4 + minimum), minimum, max_blocks=3)
    assert found.tolist() == [count + minimum for count in counts]


@pytest.mark.parametrize("tokens", [33, 64, 65, 100])
def test_65_choices_in_blocks_of_several_pieces(tokens: int) -> None:
    counts = np.random.default_rng(3).integers(0, 65, tokens)
    assert check(skewed(counts.tolist(), 65), np.zeros(64), 0, max_blocks=2).tolist() == counts.tolist()


@pytest.mark.parametrize("position", range(4))
def test_a_nan_in_any_piece_of_a_block_gives_min_learners(position: int) -> None:
    logits = normal(150, 4)
    logits[::7, position] = NAN
    assert (check(logits, np.full(5, -INF), 2, max_blocks=3)[::7] == 2).all()


@pytest.mark.parametrize("beside", [-1, 0, 1])
@pytest.mark.parametrize(("choices", "block"), ROUTING_BLOCKS)
def test_the_blocks_that_are_compiled(choices: int, block: int, beside: int) -> None:
    choices = min(choices, 65)
    sizes = {"routing_blocks": ROUTING_BLOCKS, "max_blocks": MAX_ROUTING_BLOCKS}
    check(normal(block + beside, choices), np.zeros(choices - 1), 0, **sizes)


@pytest.mark.parametrize(("choices", "block"), ROUTING_BLOCKS)
def test_the_blocks_that_are_compiled_with_several_pieces(choices: int, block: int) -> None:
    choices = min(choices, 65)
    check(normal(4 * block + 1, choices), np.zeros(choices - 1), 0, routing_blocks=ROUTING_BLOCKS, max_blocks=2)


@pytest.mark.parametrize("minimum", range(5))
@pytest.mark.parametrize("tokens", [5, 40])
def test_every_minimum(tokens: int, minimum: int) -> None:
    counts = check(normal(tokens, 5 - minimum), np.zeros(4), minimum)
    assert counts.min() >= minimum


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("tau", [0.0, -INF])
def test_a_nan_anywhere_gives_min_learners(position: int, tau: float) -> None:
    logits = normal(20, 5)
    logits[::3, position] = NAN
    assert (check(logits, np.full(6, tau), 2)[::3] == 2).all()


@pytest.mark.parametrize(
    ("logits", "tau", "count"),
    [
        ([INF, 0, 0], -INF, 0),  # 0 - inf is -inf, which is not above -inf
        ([0, 0, INF], 3e38, 2),
        ([INF, INF, 0], -INF, 0),  # inf - inf is NaN
        ([-INF, -INF, -INF], -INF, 0),
        ([0, INF, -INF], -INF, 1),
        ([1, 1, 1], 0, 0),
        ([1, 1, 1], -1e-30, 2),
        ([0, 1, 0], 1, 0),  # a margin equal to its threshold
        ([0, 1e-45, 0], 0, 1),  # subnormal
        ([0, 0, 1], NAN, 0),
        ([0, 0, 1], INF, 0),
        ([2, 1, 0], -INF, 2),
    ],
)
def test_infinite_tied_and_subnormal_logits(logits: list[float], tau: float, count: int) -> None:
    assert check([logits] * 3, [tau, tau], 0).tolist() == [count] * 3


def test_a_learner_that_does_not_run_stops_the_ones_after_it() -> None:
    assert (check(normal(20, 4), [-INF, INF, -INF], 0) == 1).all()


def test_thresholds_of_learners_that_always_run_are_ignored() -> None:
    logits = normal(20, 3)
    counts = check(logits, [NAN, INF, 0.0, 0.0], 2)
    assert counts.tolist() == check(logits, np.zeros(4), 2).tolist()
    assert counts.max() == 4


@pytest.mark.parametrize("blocks", [SMALL_BLOCKS, ROUTING_BLOCKS])
def test_equal_counts_keep_the_order_of_the_tokens(blocks: Any) -> None:
    check(skewed([0, 1, 2, 3] * 10, 4), np.zeros(3), 0, routing_blocks=blocks)
