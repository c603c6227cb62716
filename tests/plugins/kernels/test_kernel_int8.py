"""The int8 operators by the Triton kernels, interpreted: every integer step is exact, in plain FFNs and gated ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_int8 import (
    Feeds,
    Steps,
    assert_exact_steps,
    exact_int8_inputs,
    exact_y,
    int8_operator,
    random_int8_inputs,
    rounded_to_int8,
)
from kernel_processes import interpreted
from op_model import logits_of
from op_strategies import BOTH_KINDS, USUAL, WIDTHS, draw_routing, staircases
from property_tests import examples

from acm_export.base.errors import KernelError
from acm_export.op import ACTIVATIONS
from acm_export.op.quantized_reference import quantize, quantized_gated_learners
from acm_export.op.quantized_signature import MAX_SUM, QuantizedSignature
from acm_export.plugins.kernels.grids import even
from acm_export.plugins.kernels.plan import ROWS, Problem
from acm_export.plugins.kernels.tiles import Entry, Tile, entries

INF, NAN = float("inf"), float("nan")
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
LEADING = st.one_of(st.sampled_from([(), (1,), (1, 1, 1), (70,)]), st.lists(st.integers(1, 5), max_size=3).map(tuple))
INT8 = [(index, False) for index, entry in enumerate(entries()) if entry.precision == "int8"]
INT8 += [(index, True) for index, _ in INT8 if entries()[index].glu]
"""Entries and whether they run gated FFNs."""

SMALL_UP, SMALL_DOWN = Tile(32, 16, 64, 4, 2), Tile(16, 16, 64, 4, 2)
"""Tiles of different heights, small enough for the interpreter."""


def small(split: int) -> Entry:
    """A table entry with small tiles."""
    return Entry(("sm_80",), "int8", 1, None, SMALL_UP, SMALL_DOWN, split, "for tests", glu=SMALL_UP)


PATHS = pytest.mark.parametrize("entry", [small(0), small(1), small(2)], ids=["whole", "split", "slices"])


def run(feeds: Feeds, signature: QuantizedSignature, **options: Any) -> Steps:
    return interpreted(int8_operator, feeds, signature, **options)


@st.composite
def cases(draw: st.DrawFn, glu: bool) -> Any:
    """Inputs and signature."""
    n = draw(st.sampled_from([1, 2, 3, 4, 4]))
    signature = QuantizedSignature(n, draw(st.integers(0, n)), draw(st.sampled_from(ACTIVATIONS)), glu=glu)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = draw(st.sampled_from([random_int8_inputs, exact_int8_inputs]))
    feeds = inputs(rng, draw(LEADING), draw(WIDTHS), draw(WIDTHS), signature, draw(st.sampled_from(DTYPES)))
    draw_routing(draw, feeds, rng)
    return feeds, signature


@BOTH_KINDS
@given(st.data(), st.booleans(), st.booleans())
@examples(60)
def test_every_step_is_exact(glu: bool, data: st.DataObject, strided: bool, transposed: bool) -> None:
    feeds, signature = data.draw(cases(glu))
    assert_exact_steps(run(feeds, signature, strided=strided, transposed_weights=transposed), feeds, signature)


@BOTH_KINDS
@given(staircases(), st.sampled_from([0, 1, 2, 3]), st.sampled_from([(64, 64), (24, 20)]), st.sampled_from(DTYPES))
@examples(24)
def test_totals_at_the_edges_of_tiles(glu: bool, case: Any, split: int, widths: tuple[int, int], dtype: Any) -> None:
    counts, n = case
    signature = QuantizedSignature(n, 0, USUAL[glu], glu=glu)
    feeds = random_int8_inputs(np.random.default_rng(len(counts)), (len(counts),), *widths, signature, dtype)
    feeds["gate_logits"] = logits_of(counts, signature)
    steps = run(feeds, signature, entry=small(split))
    assert steps.counts.tolist() == list(counts)
    assert_exact_steps(steps, feeds, signature)


@pytest.mark.parametrize("widths", [pytest.param((256, 256), marks=pytest.mark.slow), (144, 80)])
@pytest.mark.parametrize(("index", "glu"), INT8)
def test_every_entry_of_the_table(index: int, glu: bool, widths: tuple[int, int]) -> None:
    entry = entries()[index]
    tile = entry.glu if glu else entry.up
    assert tile is not None
    tokens = min(entry.max_tokens or tile.block_m + 1, 129)
    signature = QuantizedSignature(2, 0, USUAL[glu], glu=glu)
    feeds = random_int8_inputs(np.random.default_rng(index), (tokens,), *widths, signature, DTYPES[index % 3])
    feeds["gate_logits"] = logits_of(np.arange(tokens) * 7 % 3, signature)
    assert_exact_steps(run(feeds, signature, entry=entry), feeds, signature)
    problem = Problem(tokens, *widths, 2, 0, 1, glu=glu)
    assert even(problem, entry) == ((True, True) if widths == (256, 256) else (False, False))


@PATHS
@BOTH_KINDS
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_y_is_exact_where_the_activation_is(entry: Entry, activation: str, glu: bool) -> None:
    for seed, dtype in enumerate(DTYPES):
        signature = QuantizedSignature(3, seed % 2, activation, glu=glu)
        feeds = exact_int8_inputs(np.random.default_rng(seed), (40,), 50, 36, signature, dtype)
        y = run(feeds, signature, entry=entry).y
        np.testing.assert_array_equal(y.astype(np.float64), exact_y(feeds, signature).astype(np.float64))


@BOTH_KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_y_agrees_with_the_reference(activation: str, glu: bool) -> None:
    signature = QuantizedSignature(4, 1, activation, glu=glu)
    feeds = random_int8_inputs(np.random.default_rng(0), (2, 9), 33, 20, signature)
    steps = run(feeds, signature)
    expected, counts = quantized_gated_learners(**feeds, signature=signature)
    np.testing.assert_array_equal(steps.counts, counts)
    one_step = 127 * feeds["s2"].max()
    error = np.abs(steps.y - expected)
    assert error.max() <= 3 * one_step  # a few hidden values may be off by 1
    assert glu or np.mean(error > 1e-4) < 0.05
    assert (error <= 1e-4).all(axis=-1).mean() > 0.7, "tokens whose hidden values are all rounded as in float64"


@pytest.mark.parametrize("zero", [-128, -127, -1, 0, 1, 126, 127])
def test_rounding_is_half_to_even_after_one_product(zero: int) -> None:
    rng = np.random.default_rng(zero + 128)
    halves = np.arange(-300, 300).astype(np.float32) + np.float32(0.5)
    anything = rng.integers(0, 1 << 32, 4000, dtype=np.uint32).view(np.float32)
    edges = np.array([0, -0.0, 1e-45, -1e-45, 0.49999997, -0.49999997, 3.4e38, -3.4e38, INF, -INF], np.float32)
    near = np.concatenate([np.nextafter(halves, np.float32(INF)), np.nextafter(halves, np.float32(-INF))])
    values = np.concatenate([halves, near, anything[~np.isnan(anything)], edges])
    for multipliers in (np.ones_like(values), rng.uniform(0.1, 50, len(values)).astype(np.float32)):
        with np.errstate(over="ignore"):
            expected = np.clip(np.rint(values * multipliers) + np.float32(zero), -128, 127)
        np.testing.assert_array_equal(interpreted(rounded_to_int8, values, multipliers, zero), expected)


@PATHS
def test_a_token_that_is_not_finite_changes_no_other(entry: Entry) -> None:
    signature = QuantizedSignature(3, 0, "gelu")
    feeds = random_int8_inputs(np.random.default_rng(3), (40,), 32, 16, signature)
    expected = run(feeds, signature, entry=entry)
    feeds["x"][::7] = np.array([NAN, INF, -INF, NAN, INF, 3e38], np.float32)[:, None]
    found = run(feeds, signature, entry=entry)
    np.testing.assert_array_equal(found.counts, expected.counts)
    rest = np.arange(40) % 7 > 0
    np.testing.assert_array_equal(found.y[rest], expected.y[rest])
    clamped = [7, 14, 28, 35]
    only = {name: feeds[name][clamped] for name in ("x", "gate_logits")}
    with np.errstate(invalid="ignore", over="ignore"):
        q = quantize(only["x"], feeds["x_mult"])
    assert set(np.unique(q)) == {-128, 127}
    feeds |= only
    assert_exact_steps(run(feeds, signature, entry=entry), feeds, signature)


@PATHS
@BOTH_KINDS
def test_scales_of_learners_that_no_token_runs_are_not_used(entry: Entry, glu: bool) -> None:
    signature, hidden = QuantizedSignature(4, 0, "relu", glu=glu), 20
    feeds = random_int8_inputs(np.random.default_rng(6), (35,), 24, hidden, signature)
    feeds["thresholds"][2:] = INF
    expected = run(feeds, signature, entry=entry)
    for name, other in (("s1", NAN), ("b1", NAN), ("t1", NAN), ("c1", NAN), ("w1", 99), ("v1", 99)):
        if name in signature.inputs:
            feeds[name][..., 2 * hidden :] = other
    feeds["h_mult"][2:], feeds["b2"][3:], feeds["w2"][2 * hidden :] = NAN, NAN, 99
    found = run(feeds, signature, entry=entry)
    assert found.counts.max() == 2
    assert found.y.tobytes() == expected.y.tobytes()


@PATHS
def test_tokens_in_another_order_give_the_same_bits(entry: Entry) -> None:
    signature = QuantizedSignature(3, 0, "silu")
    feeds = random_int8_inputs(np.random.default_rng(8), (53,), 24, 20, signature, np.float16)
    expected = run(feeds, signature, entry=entry)
    shuffled = np.random.default_rng(9).permutation(53)
    feeds |= {"x": feeds["x"][shuffled], "gate_logits": feeds["gate_logits"][shuffled]}
    assert run(feeds, signature, entry=entry).y.tobytes() == expected.y[shuffled].tobytes()


@BOTH_KINDS
@pytest.mark.parametrize("reached", [0, 1, ROWS, ROWS + 1, 300])
def test_chunks_of_sorted_rows_give_the_same_bits(reached: int, glu: bool) -> None:
    signature, tokens = QuantizedSignature(2, 0, "silu", glu=glu), 300
    feeds = random_int8_inputs(np.random.default_rng(1), (tokens,), 20, 16, signature)
    counts = np.random.default_rng(2).permutation(np.where(np.arange(tokens) < reached, 2, np.arange(tokens) % 2))
    feeds["gate_logits"] = logits_of(counts, signature)
    high = replace(SMALL_UP, block_m=64)
    entry = replace(small(0), up=high, glu=high)
    whole = run(feeds, signature, entry=entry)
    assert_exact_steps(whole, feeds, signature)
    chunks = run(feeds, signature, entry=entry, hidden_limit=1)
    assert chunks.counts.tolist() == counts.tolist()
    assert chunks.y.tobytes() == whole.y.tobytes()


def test_rows_of_q_and_of_hidden_values_are_written_only_where_a_learner_runs() -> None:
    signature = QuantizedSignature(3, 0, "gelu")
    counts = np.repeat([3, 2, 1, 0], [20, 20, 30, 30])
    feeds = random_int8_inputs(np.random.default_rng(4), (100,), 24, 20, signature)
    feeds["gate_logits"] = logits_of(counts, signature)
    steps = run(feeds, signature, entry=small(0))
    unwritten = -1  # bytes 0xFF
    assert (steps.q[70:] == unwritten).all()
    for learner, tiles in enumerate((96, 64, 32)):
        assert (steps.hidden[tiles:, learner] == unwritten).all()


@BOTH_KINDS
@pytest.mark.parametrize("leading", [(0,), (0, 3), (2, 0, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_tokens(leading: tuple[int, ...], dtype: Any, glu: bool) -> None:
    signature = QuantizedSignature(3, 1, USUAL[glu], glu=glu)
    steps = run(random_int8_inputs(np.random.default_rng(0), leading, 5, 4, signature, dtype), signature)
    assert (steps.y.shape, steps.y.dtype, steps.counts.shape) == ((*leading, 5), np.dtype(dtype), leading)


@BOTH_KINDS
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_all_tokens_with_one_count(tokens: int, count: int, glu: bool) -> None:
    for dtype in DTYPES:
        signature = QuantizedSignature(3, 0, USUAL[glu], glu=glu)
        feeds = random_int8_inputs(np.random.default_rng(1), (tokens,), 33, 17, signature, dtype)
        feeds["gate_logits"] = logits_of(np.full(tokens, count), signature)
        assert_exact_steps(run(feeds, signature), feeds, signature)


@pytest.mark.parametrize(
    ("minimum", "most"), [(0, 64), *(pytest.param(counts, 64, marks=pytest.mark.slow) for counts in (63, 64))]
)
def test_sixty_four_learners(minimum: int, most: int) -> None:
    signature = QuantizedSignature(64, minimum, "gelu")
    wanted = np.array([64, 0, 63, 1, 17, 32, 64, 2]).clip(minimum, most)
    feeds = random_int8_inputs(np.random.default_rng(minimum), (8,), 16, 3, signature)
    feeds["gate_logits"] = logits_of(wanted, signature)
    for split in (0, 1):
        assert_exact_steps(run(feeds, signature, entry=small(split)), feeds, signature)


@pytest.mark.slow
@pytest.mark.parametrize("split", [0, 2])
@pytest.mark.parametrize("widths", [(MAX_SUM, 1), (1, MAX_SUM)])
def test_the_largest_sums_do_not_overflow(widths: tuple[int, int], split: int) -> None:
    signature = QuantizedSignature(1, 1, "identity")
    feeds = random_int8_inputs(np.random.default_rng(0), (2,), *widths, signature)
    for name in ("w1", "w2"):
        feeds[name] = np.where(np.arange(feeds[name].shape[1]) % 2, 127, -127).astype(np.int8) * np.ones_like(
            feeds[name]
        )
    feeds["x"][:] = np.array([[-1e3], [1e3]], np.float32)
    feeds["b1"][:], feeds["s1"][:] = 1e4, 1e-9
    long, wide = {"block_n": 16, "block_k": 4096}, {"block_n": 4096, "block_k": 64}
    up, down = (long, wide) if widths[0] > 1 else (wide, long)
    entry = replace(small(split), up=replace(SMALL_UP, **up), down=replace(SMALL_DOWN, **down))
    steps = run(feeds, signature, entry=entry)
    assert (np.abs(steps.q[:2, : widths[0]].astype(int)) >= 127).all()
    assert_exact_steps(steps, feeds, signature)


@pytest.mark.slow
@pytest.mark.parametrize("split", [0, 2])
def test_the_largest_sums_of_gated_ffns_do_not_overflow(split: int) -> None:
    signature = QuantizedSignature(1, 1, "identity", glu=True)
    feeds = random_int8_inputs(np.random.default_rng(0), (2,), MAX_SUM, 1, signature)
    feeds["w1"][:], feeds["v1"][:], feeds["w2"][:] = 127, -127, 127
    feeds["x"][:] = np.array([[-1e3], [1e3]], np.float32)
    feeds["s1"][:], feeds["t1"][:], feeds["h_mult"][:] = 1e-9, 1e-9, 10
    up = replace(SMALL_UP, block_n=16, block_k=4096)
    entry = replace(small(split), glu=up, down=replace(SMALL_DOWN, block_n=4096, block_k=64))
    assert_exact_steps(run(feeds, signature, entry=entry), feeds, signature)


@BOTH_KINDS
def test_dynamic_scales_are_refused_with_the_option_that_avoids_them(glu: bool) -> None:
    signature = QuantizedSignature(2, 0, USUAL[glu], dynamic=1, glu=glu)
    feeds = random_int8_inputs(np.random.default_rng(0), (3,), 16, 16, signature)
    with pytest.raises(KernelError, match="dynamic = 1") as caught:
        run(feeds, signature)
    assert "--activations static" in str(caught.value.hint)
