"""Memory that the kernels read and write, and identical results on every run."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kernel_processes import interpreted
from kernel_runs import UNWRITTEN, beyond_32_bits, hidden_values, operator, partial_sums
from op_model import TOLERANCE, assert_matches_loop, logits_of, random_inputs
from test_kernel_op import DTYPES, SMALL_UP, small

from acm_export.op import Signature
from acm_export.op.reference import activate, gated_learners

pytestmark = pytest.mark.slow

INF, NAN = float("inf"), float("nan")
PATHS = pytest.mark.parametrize(
    ("entry", "limit", "tokens"),
    [(small(0), None, 53), (small(0), 1, 180), (small(1), None, 35), (small(2), None, 20)],
    ids=["whole", "chunks", "split", "slices"],
)
"""Whole K, the same in chunks, K split by learner, and by two slices in each."""


@PATHS
@pytest.mark.parametrize(("bad", "minimum"), [(NAN, 0), (INF, 1)])
def test_weights_of_learners_that_a_token_does_not_run_do_not_touch_it(
    entry: Any, limit: int | None, tokens: int, bad: float, minimum: int
) -> None:
    signature, hidden = Signature(3, minimum, "gelu"), 20
    feeds = random_inputs(np.random.default_rng(5), (tokens,), 24, hidden, signature)
    some = np.arange(tokens) % 8 // 6 * (np.arange(tokens) % (4 - minimum))  # the edge is in the last chunk
    feeds["gate_logits"] = logits_of(3 - some, signature)
    feeds["w1"][:, 2 * hidden :], feeds["b1"][2 * hidden :] = bad, bad
    feeds["w2"][2 * hidden :], feeds["b2"][3] = bad, bad
    y, counts = interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit)
    assert not np.isfinite(y[counts == 3]).any()
    few = counts < 3
    feeds |= {"x": feeds["x"][few], "gate_logits": feeds["gate_logits"][few]}
    assert_matches_loop(y[few], counts[few], feeds, signature)


@PATHS
def test_weights_of_learners_that_no_token_runs_are_not_read(entry: Any, limit: int | None, tokens: int) -> None:
    signature = Signature(4, 0, "relu")
    feeds = random_inputs(np.random.default_rng(6), (tokens,), 24, 20, signature)
    feeds["thresholds"][2:] = INF
    expected, _ = gated_learners(**feeds, signature=signature)
    feeds["w1"][:, 40:], feeds["b1"][40:], feeds["w2"][40:], feeds["b2"][3:] = NAN, NAN, NAN, NAN
    y, counts = interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit)
    assert counts.max() == 2
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE["float32"] * np.abs(expected).max())


@PATHS
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_call_gives_the_same_bits(entry: Any, limit: int | None, tokens: int, dtype: Any) -> None:
    signature = Signature(3, 0, "silu")
    feeds = random_inputs(np.random.default_rng(7), (tokens,), 24, 20, signature, dtype)
    first, second = (interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


@PATHS
def test_tokens_in_another_order_give_their_rows_in_that_order(entry: Any, limit: int | None, tokens: int) -> None:
    signature = Signature(3, 0, "silu")
    feeds = random_inputs(np.random.default_rng(8), (tokens,), 24, 20, signature)
    y, counts = interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit)
    shuffled = np.random.default_rng(9).permutation(tokens)
    feeds |= {"x": feeds["x"][shuffled], "gate_logits": feeds["gate_logits"][shuffled]}
    other, other_counts = interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit)
    np.testing.assert_array_equal(other_counts, counts[shuffled])
    np.testing.assert_allclose(other, y[shuffled], rtol=0, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("widths", [(32, 16), (24, 20)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_values_are_written_only_in_tiles_that_the_staircase_has(widths: tuple[int, int], dtype: Any) -> None:
    signature, first, rows, height = Signature(3, 0, "gelu"), 16, 100, SMALL_UP.block_m
    ends = [90, 48, 0]  # sorted rows that run each learner
    counts = np.sum(np.arange(130)[::-1, None] < ends, axis=1)
    feeds = random_inputs(np.random.default_rng(4), (130,), *widths, signature, dtype)
    hidden = interpreted(hidden_values, feeds, signature, counts, small(0), first, rows)
    order = np.argsort(-counts, kind="stable")[first : first + rows]
    x, w1, b1 = (feeds[name].astype(np.float64) for name in ("x", "w1", "b1"))
    exact = activate("gelu", x[order] @ w1 + b1).reshape(rows, 3, widths[1])
    for learner, end in enumerate(np.subtract(ends, first).clip(0)):
        tiles = -(-end // height) * height
        assert (np.ascontiguousarray(hidden[tiles:, learner]).view(np.uint8) == UNWRITTEN).all()
        values, bits = exact[:end, learner], {2: ml_dtypes.finfo(dtype).nmant}.get(np.dtype(dtype).itemsize, 18)
        rounding = 2.0 ** -(bits + 1) * np.abs(values)  # half a unit in the last place: rounded to the nearest
        np.testing.assert_array_less(np.abs(hidden[:end, learner].astype(np.float64) - values), rounding + 2e-6)


@PATHS
def test_a_non_finite_token_changes_no_other(entry: Any, limit: int | None, tokens: int) -> None:
    # rows of a tile that do not run its learner are computed from the first token
    signature = Signature(3, 0, "gelu")
    feeds = random_inputs(np.random.default_rng(12), (tokens,), 24, 20, signature)
    expected, _ = gated_learners(**feeds, signature=signature)
    feeds["x"][0] = np.nan
    y, _ = interpreted(operator, feeds, signature, entry=entry, hidden_limit=limit)
    np.testing.assert_allclose(y[1:], expected[1:], rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("split", [1, 2])
def test_split_products_are_made_only_for_learners_that_a_tile_runs(split: int) -> None:
    signature, height = Signature(4, 0, "identity"), small(split).down.block_m
    feeds = random_inputs(np.random.default_rng(11), (40,), 24, 40, signature)
    counts = np.repeat([3, 2, 1, 0], [height, 8, 8, 40 - height - 16])
    feeds["gate_logits"] = logits_of(counts, signature)
    partial = interpreted(partial_sums, feeds, signature, small(split))
    written = np.isfinite(partial).all(axis=-1)
    for tile in range(-(-40 // height)):
        rows = slice(tile * height, (tile + 1) * height)
        for learner in range(4):
            assert (written[learner, :, rows] == (learner < counts[rows.start])).all()


def test_offsets_are_computed_in_64_bits() -> None:
    outcome = interpreted(beyond_32_bits)
    if outcome is None:
        pytest.skip("the system does not grant 11 GB of untouched address space")
    found, expected = outcome
    np.testing.assert_allclose(found, expected, rtol=1e-2)
