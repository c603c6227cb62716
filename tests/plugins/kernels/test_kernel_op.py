"""The whole operator by the Triton kernels, interpreted, compared with the float64 loop: plain FFNs and gated ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_processes import interpreted
from kernel_runs import operator
from op_model import assert_matches_loop, logits_of, random_inputs
from op_strategies import BOTH_KINDS, USUAL, WIDTHS, draw_routing, staircases
from property_tests import examples

from acm_export.op import ACTIVATIONS, Signature
from acm_export.plugins.kernels.grids import even
from acm_export.plugins.kernels.plan import ROWS, Problem
from acm_export.plugins.kernels.tiles import Entry, Tile, entries

INF, NAN = float("inf"), float("nan")
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
LEADING = st.one_of(st.sampled_from([(), (1,), (1, 1, 1), (70,)]), st.lists(st.integers(1, 5), max_size=3).map(tuple))

IN_TRITON = [index for index, entry in enumerate(entries()) if entry.language == "triton"]
"""Entries of the table that can be interpreted; test_cuda_kernels.py has the others."""

OF_FLOATS = [(index, False) for index in IN_TRITON]
OF_FLOATS += [(index, True) for index, entry in enumerate(entries()) if entry.glu and entry.precision != "int8"]
"""Entries and whether they run gated FFNs."""

SMALL_UP, SMALL_DOWN = Tile(32, 16, 16, 4, 2), Tile(16, 16, 16, 4, 2)
"""Tiles of different heights, small enough for the interpreter."""


def small(split: int) -> Entry:
    """A table entry with small tiles."""
    return Entry(("sm_80",), "half", 1, None, SMALL_UP, SMALL_DOWN, split, "for tests", glu=SMALL_UP)


@st.composite
def cases(draw: st.DrawFn, glu: bool) -> Any:
    """Inputs, and signature."""
    n = draw(st.sampled_from([1, 2, 3, 4, 4]))
    signature = Signature(n, draw(st.integers(0, n)), draw(st.sampled_from(ACTIVATIONS)), glu=glu)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(DTYPES))
    feeds = random_inputs(rng, draw(LEADING), draw(WIDTHS), draw(WIDTHS), signature, dtype)
    draw_routing(draw, feeds, rng)
    return feeds, signature


@BOTH_KINDS
@given(st.data(), st.booleans())
@examples(60)
def test_the_kernels_agree_with_the_loop(glu: bool, data: st.DataObject, strided: bool) -> None:
    feeds, signature = data.draw(cases(glu))
    y, counts = interpreted(operator, feeds, signature, strided=strided)
    assert y.dtype == feeds["x"].dtype
    assert_matches_loop(y, counts, feeds, signature)


@BOTH_KINDS
@given(staircases(), st.sampled_from([0, 1, 2, 3]), st.sampled_from([(32, 48), (24, 20)]), st.sampled_from(DTYPES))
@examples(36)
def test_totals_at_the_edges_of_tiles(glu: bool, case: Any, split: int, widths: tuple[int, int], dtype: Any) -> None:
    counts, n = case
    signature = Signature(n, 0, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(len(counts)), (len(counts),), *widths, signature, dtype)
    feeds["gate_logits"] = logits_of(counts, signature)
    y, found = interpreted(operator, feeds, signature, entry=small(split))
    assert found.tolist() == list(counts)
    assert_matches_loop(y, found, feeds, signature)


@pytest.mark.parametrize("widths", [pytest.param((256, 256), marks=pytest.mark.slow), (144, 80)])
@pytest.mark.parametrize(("index", "glu"), OF_FLOATS)
def test_every_entry_of_the_table(index: int, glu: bool, widths: tuple[int, int]) -> None:
    entry = entries()[index]
    tile = entry.glu if glu else entry.up
    assert tile is not None
    tokens = entry.max_tokens or tile.block_m + 1
    dtype = np.float16 if entry.precision == "half" else np.float32
    signature = Signature(2, 0, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(index), (tokens,), *widths, signature, dtype)
    feeds["gate_logits"] = logits_of(np.arange(tokens) * 7 % 3, signature)
    y, counts = interpreted(operator, feeds, signature, entry=entry, allow_tf32=entry.precision == "tf32")
    assert_matches_loop(y, counts, feeds, signature)
    problem = Problem(tokens, *widths, 2, 0, feeds["x"].itemsize, glu=glu)
    assert even(problem, entry) == ((True, True) if widths == (256, 256) else (even(problem, entry)[0], False))


@pytest.mark.parametrize("rows", [-1, 0, 1])
@pytest.mark.parametrize("index", IN_TRITON)
def test_one_tile_of_rows_more_or_less_a_token(index: int, rows: int) -> None:
    real = entries()[index]
    entry = replace(real, up=replace(real.up, block_n=16, block_k=16), down=replace(real.down, block_n=16, block_k=16))
    tokens = real.up.block_m + rows
    dtype = np.float16 if entry.precision == "half" else np.float32
    signature = Signature(2, 1, "relu")
    feeds = random_inputs(np.random.default_rng(index), (tokens,), 16, 16, signature, dtype)
    feeds["gate_logits"] = logits_of(1 + np.arange(tokens) % 2, signature)
    y, counts = interpreted(operator, feeds, signature, entry=entry)
    assert_matches_loop(y, counts, feeds, signature)


@BOTH_KINDS
@pytest.mark.parametrize("reached", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 300])
def test_chunks_of_sorted_rows(reached: int, glu: bool) -> None:
    signature, tokens = Signature(2, 0, "silu", glu=glu), 300
    feeds = random_inputs(np.random.default_rng(1), (tokens,), 16, 16, signature)
    counts = np.random.default_rng(2).permutation(np.where(np.arange(tokens) < reached, 2, np.arange(tokens) % 2))
    feeds["gate_logits"] = logits_of(counts, signature)
    high = replace(SMALL_UP, block_m=64)
    entry = replace(small(0), up=high, glu=high)
    y, found = interpreted(operator, feeds, signature, entry=entry, hidden_limit=1)
    assert found.tolist() == counts.tolist()
    assert_matches_loop(y, found, feeds, signature)


def test_a_small_limit_makes_chunks_of_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.plugins.kernels.plan.HIDDEN_LIMIT", 1)
    assert list(Problem(300, 16, 16, 2, 0, 4).chunks()) == [(0, 128), (128, 128), (256, 44)]


@BOTH_KINDS
@pytest.mark.parametrize("leading", [(0,), (0, 3), (2, 0, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_tokens(leading: tuple[int, ...], dtype: Any, glu: bool) -> None:
    signature = Signature(3, 1, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(0), leading, 5, 4, signature, dtype)
    y, counts = interpreted(operator, feeds, signature)
    assert (y.shape, y.dtype, counts.shape, counts.dtype) == ((*leading, 5), np.dtype(dtype), leading, np.int32)


@BOTH_KINDS
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_all_tokens_with_one_count(tokens: int, count: int, glu: bool) -> None:
    for dtype in DTYPES:
        signature = Signature(3, 0, USUAL[glu], glu=glu)
        feeds = random_inputs(np.random.default_rng(1), (tokens,), 33, 17, signature, dtype)
        feeds["gate_logits"] = logits_of(np.full(tokens, count), signature)
        y, counts = interpreted(operator, feeds, signature)
        assert (counts == count).all()
        assert_matches_loop(y, counts, feeds, signature)


@BOTH_KINDS
@pytest.mark.parametrize(
    ("minimum", "most"),
    [(0, 64), *(pytest.param(*counts, marks=pytest.mark.slow) for counts in ((1, 60), (63, 64), (64, 64)))],
)
def test_sixty_four_learners(minimum: int, most: int, glu: bool) -> None:
    signature = Signature(64, minimum, USUAL[glu], glu=glu)
    wanted = np.array([64, 0, 63, 1, 17, 32, 64, 2]).clip(minimum, most)
    feeds = random_inputs(np.random.default_rng(minimum), (8,), 16, 3, signature)
    feeds["gate_logits"] = logits_of(wanted, signature)
    for split in (0, 1):
        y, counts = interpreted(operator, feeds, signature, entry=small(split))
        assert counts.tolist() == wanted.tolist()
        assert_matches_loop(y, counts, feeds, signature)


@BOTH_KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_activation(activation: str, dtype: Any, glu: bool) -> None:
    signature = Signature(3, 1, activation, glu=glu)
    feeds = random_inputs(np.random.default_rng(0), (2, 9), 33, 20, signature, dtype)
    feeds["x"] *= dtype(3)
    y, counts = interpreted(operator, feeds, signature)
    assert_matches_loop(y, counts, feeds, signature)


@BOTH_KINDS
@pytest.mark.parametrize("split", [0, 2])
def test_tokens_that_are_not_finite_change_no_other(split: int, glu: bool) -> None:
    signature = Signature(3, 0, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(3), (40,), 32, 16, signature)
    feeds["x"][::7] = np.array([NAN, INF, -INF, NAN, INF, 3e38], np.float32)[:, None]
    feeds["gate_logits"][3, 1], feeds["gate_logits"][5] = NAN, NAN
    with np.errstate(invalid="ignore", over="ignore"):
        y, counts = interpreted(operator, feeds, signature, entry=small(split))
    assert counts[[3, 5]].tolist() == [0, 0]
    rest = np.arange(40) % 7 > 0
    feeds |= {"x": feeds["x"][rest], "gate_logits": feeds["gate_logits"][rest]}
    assert_matches_loop(y[rest], counts[rest], feeds, signature)
