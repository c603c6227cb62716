"""GLUGatedLearners by the Triton kernels, interpreted, compared with the float64 loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_processes import interpreted
from kernel_runs import UNWRITTEN, hidden_values, operator
from op_model import TOLERANCE, assert_matches_loop, logits_of, random_inputs
from op_strategies import WIDTHS, draw_routing, staircases
from property_tests import examples
from test_kernel_op import DTYPES, LEADING, SMALL_UP, small

from acm_export.base.errors import KernelError
from acm_export.op import ACTIVATIONS, Signature
from acm_export.op.reference import gated_learners
from acm_export.plugins.kernels.grids import even
from acm_export.plugins.kernels.plan import ROWS, Problem
from acm_export.plugins.kernels.tiles import Tile, entries

INF, NAN = float("inf"), float("nan")
FOR_GLU = [index for index, entry in enumerate(entries()) if entry.glu is not None and entry.precision != "int8"]


def glu(num_learners: int, min_learners: int = 0, activation: str = "silu") -> Signature:
    return Signature(num_learners, min_learners, activation, glu=True)


@st.composite
def cases(draw: st.DrawFn) -> Any:
    """Inputs, and signature."""
    n = draw(st.sampled_from([1, 2, 3, 4, 4]))
    signature = glu(n, draw(st.integers(0, n)), draw(st.sampled_from(ACTIVATIONS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    feeds = random_inputs(rng, draw(LEADING), draw(WIDTHS), draw(WIDTHS), signature, draw(st.sampled_from(DTYPES)))
    draw_routing(draw, feeds, rng)
    return feeds, signature


@given(cases(), st.booleans())
@examples(40)
def test_the_kernels_agree_with_the_loop(case: Any, strided: bool) -> None:
    feeds, signature = case
    y, counts = interpreted(operator, feeds, signature, strided=strided)
    assert y.dtype == feeds["x"].dtype
    assert_matches_loop(y, counts, feeds, signature)


@given(staircases(), st.sampled_from([0, 1, 2]), st.sampled_from([(32, 48), (24, 20)]), st.sampled_from(DTYPES))
@examples(24)
def test_totals_at_the_edges_of_tiles(case: Any, split: int, widths: tuple[int, int], dtype: Any) -> None:
    counts, n = case
    feeds = random_inputs(np.random.default_rng(len(counts)), (len(counts),), *widths, glu(n), dtype)
    feeds["gate_logits"] = logits_of(counts, glu(n))
    y, found = interpreted(operator, feeds, glu(n), entry=small(split))
    assert found.tolist() == list(counts)
    assert_matches_loop(y, found, feeds, glu(n))


@pytest.mark.parametrize("widths", [pytest.param((256, 256), marks=pytest.mark.slow), (144, 80)])
@pytest.mark.parametrize("index", FOR_GLU)
def test_every_entry_of_the_table(index: int, widths: tuple[int, int]) -> None:
    entry = entries()[index]
    assert entry.glu is not None
    tokens = min(entry.max_tokens or entry.glu.block_m + 1, 129)
    dtype = np.float16 if entry.precision == "half" else np.float32
    feeds = random_inputs(np.random.default_rng(index), (tokens,), *widths, glu(2), dtype)
    feeds["gate_logits"] = logits_of(np.arange(tokens) * 7 % 3, glu(2))
    y, counts = interpreted(operator, feeds, glu(2), entry=entry, allow_tf32=entry.precision == "tf32")
    assert_matches_loop(y, counts, feeds, glu(2))
    problem = Problem(tokens, *widths, 2, 0, feeds["x"].itemsize, glu=True)
    assert even(problem, entry)[1] == (widths == (256, 256))


def test_gemm_1_uses_its_own_tile() -> None:
    signature = glu(2)
    feeds = random_inputs(np.random.default_rng(3), (40,), 24, 20, signature)
    wrong = Tile(16, 24, 16, 4, 2)  # 24 is not a power of two, which Triton refuses
    y, counts = interpreted(operator, feeds, signature, entry=replace(small(0), up=wrong))
    assert_matches_loop(y, counts, feeds, signature)


def test_an_entry_without_a_tile_for_glus_cannot_run_them() -> None:
    feeds = random_inputs(np.random.default_rng(3), (40,), 24, 20, glu(2))
    with pytest.raises(KernelError, match="these tile sizes have none for GEMM 1 of GLU learners"):
        interpreted(operator, feeds, glu(2), entry=replace(small(0), glu=None))


def test_the_product_is_formed_in_float32_and_rounded_once() -> None:
    signature = glu(1, 1, "identity")
    feeds = random_inputs(np.random.default_rng(0), (3,), 16, 16, signature, np.float16)
    for name in ("w1", "v1", "b1", "c1"):
        feeds[name][:] = 0
    feeds["x"][:, 0], feeds["x"][:, 1] = 1, 2.0**-11
    for name in ("w1", "v1"):
        feeds[name][:2] = 1  # both products are 1 + 2**-11, which float16 rounds to 1
    counts = np.ones(3, np.int32)
    hidden = interpreted(hidden_values, feeds, signature, counts, small(0), 0, 3)
    assert (hidden[:3].astype(np.float64) == 1 + 2.0**-10).all()


@pytest.mark.parametrize("reached", [0, 1, ROWS, ROWS + 1, 300])
def test_chunks_of_sorted_rows(reached: int) -> None:
    signature, tokens = glu(2), 300
    feeds = random_inputs(np.random.default_rng(1), (tokens,), 16, 16, signature)
    counts = np.random.default_rng(2).permutation(np.where(np.arange(tokens) < reached, 2, np.arange(tokens) % 2))
    feeds["gate_logits"] = logits_of(counts, signature)
    entry = replace(small(0), glu=replace(SMALL_UP, block_m=64))
    y, found = interpreted(operator, feeds, signature, entry=entry, hidden_limit=1)
    assert found.tolist() == counts.tolist()
    assert_matches_loop(y, found, feeds, signature)


@pytest.mark.parametrize("leading", [(0,), (0, 3), (2, 0, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_tokens(leading: tuple[int, ...], dtype: Any) -> None:
    feeds = random_inputs(np.random.default_rng(0), leading, 5, 4, glu(3, 1), dtype)
    y, counts = interpreted(operator, feeds, glu(3, 1))
    assert (y.shape, y.dtype, counts.shape, counts.dtype) == ((*leading, 5), np.dtype(dtype), leading, np.int32)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_all_tokens_with_one_count(tokens: int, count: int) -> None:
    for dtype in DTYPES:
        feeds = random_inputs(np.random.default_rng(1), (tokens,), 33, 17, glu(3), dtype)
        feeds["gate_logits"] = logits_of(np.full(tokens, count), glu(3))
        y, counts = interpreted(operator, feeds, glu(3))
        assert (counts == count).all()
        assert_matches_loop(y, counts, feeds, glu(3))


@pytest.mark.parametrize("minimum", [0, pytest.param(64, marks=pytest.mark.slow)])
def test_sixty_four_learners(minimum: int) -> None:
    signature = glu(64, minimum)
    wanted = np.array([64, 0, 63, 1, 17, 32, 64, 2]).clip(minimum)
    feeds = random_inputs(np.random.default_rng(minimum), (8,), 16, 3, signature)
    feeds["gate_logits"] = logits_of(wanted, signature)
    for split in (0, 1):
        y, counts = interpreted(operator, feeds, signature, entry=small(split))
        assert counts.tolist() == wanted.tolist()
        assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_activation(activation: str, dtype: Any) -> None:
    signature = glu(3, 1, activation)
    feeds = random_inputs(np.random.default_rng(0), (2, 9), 33, 20, signature, dtype)
    feeds["x"] *= dtype(3)
    y, counts = interpreted(operator, feeds, signature)
    assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("split", [0, 2])
def test_tokens_that_are_not_finite_change_no_other(split: int) -> None:
    signature = glu(3)
    feeds = random_inputs(np.random.default_rng(3), (40,), 32, 16, signature)
    feeds["x"][::7] = np.array([NAN, INF, -INF, NAN, INF, 3e38], np.float32)[:, None]
    feeds["gate_logits"][3, 1], feeds["gate_logits"][5] = NAN, NAN
    with np.errstate(invalid="ignore", over="ignore"):
        y, counts = interpreted(operator, feeds, signature, entry=small(split))
    assert counts[[3, 5]].tolist() == [0, 0]
    rest = np.arange(40) % 7 > 0
    feeds |= {"x": feeds["x"][rest], "gate_logits": feeds["gate_logits"][rest]}
    assert_matches_loop(y[rest], counts[rest], feeds, signature)


@pytest.mark.parametrize("split", [0, 1, 2])
def test_weights_of_learners_that_no_token_runs_are_not_read(split: int) -> None:
    signature = glu(4)
    feeds = random_inputs(np.random.default_rng(6), (35,), 24, 20, signature)
    feeds["thresholds"][2:] = INF
    expected, _ = gated_learners(**feeds, signature=signature)
    for name in ("w1", "b1", "v1", "c1"):
        feeds[name][..., 40:] = NAN
    feeds["w2"][40:], feeds["b2"][3:] = NAN, NAN
    y, counts = interpreted(operator, feeds, signature, entry=small(split))
    assert counts.max() == 2
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE["float32"] * np.abs(expected).max())


def test_hidden_values_are_written_only_in_tiles_that_the_staircase_has() -> None:
    signature = glu(3)
    counts = np.repeat([3, 2, 1, 0], [20, 20, 30, 30])
    feeds = random_inputs(np.random.default_rng(4), (100,), 24, 20, signature)
    hidden = interpreted(hidden_values, feeds, signature, counts, small(0), 0, 100)
    written = (hidden.view(np.uint8).reshape(128, 3, -1) != UNWRITTEN).any(axis=-1)
    for learner, rows in enumerate((96, 64, 32)):  # in tiles of 32
        assert written[:rows, learner].all()
        assert not written[rows:, learner].any()


def test_the_same_call_gives_the_same_bits() -> None:
    for dtype in DTYPES:
        feeds = random_inputs(np.random.default_rng(7), (53,), 24, 20, glu(3), dtype)
        first, second = (interpreted(operator, feeds, glu(3), entry=small(2)) for _ in range(2))
        assert first[0].tobytes() == second[0].tobytes()
