"""QuantizedGLUGatedLearners by the Triton kernels, interpreted: every integer step is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_int8 import assert_exact_steps, exact_int8_inputs, exact_y, int8_operator, random_int8_inputs
from kernel_processes import interpreted
from op_model import logits_of
from op_strategies import WIDTHS, draw_routing, staircases
from property_tests import examples
from test_kernel_int8 import DTYPES, LEADING, PATHS, SMALL_DOWN, SMALL_UP, run, small

from acm_export.base.errors import KernelError
from acm_export.op import ACTIVATIONS
from acm_export.op.quantized_reference import quantized_gated_learners
from acm_export.op.quantized_signature import MAX_SUM, QuantizedSignature
from acm_export.plugins.kernels.plan import ROWS
from acm_export.plugins.kernels.tiles import Entry, entries

INF, NAN = float("inf"), float("nan")
FOR_GLU = [index for index, entry in enumerate(entries()) if entry.glu is not None and entry.precision == "int8"]


def glu(num_learners: int, min_learners: int = 0, activation: str = "silu", dynamic: int = 0) -> QuantizedSignature:
    return QuantizedSignature(num_learners, min_learners, activation, dynamic, glu=True)


@st.composite
def cases(draw: st.DrawFn) -> Any:
    """Inputs and signature."""
    n = draw(st.sampled_from([1, 2, 3, 4, 4]))
    signature = glu(n, draw(st.integers(0, n)), draw(st.sampled_from(ACTIVATIONS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = draw(st.sampled_from([random_int8_inputs, exact_int8_inputs]))
    feeds = inputs(rng, draw(LEADING), draw(WIDTHS), draw(WIDTHS), signature, draw(st.sampled_from(DTYPES)))
    draw_routing(draw, feeds, rng)
    return feeds, signature


@given(cases(), st.booleans(), st.booleans())
@examples(40)
def test_every_step_is_exact(case: Any, strided: bool, transposed: bool) -> None:
    feeds, signature = case
    assert_exact_steps(run(feeds, signature, strided=strided, transposed_weights=transposed), feeds, signature)


@given(staircases(), st.sampled_from([0, 1, 2]), st.sampled_from([(64, 64), (24, 20)]), st.sampled_from(DTYPES))
@examples(16)
def test_totals_at_the_edges_of_tiles(case: Any, split: int, widths: tuple[int, int], dtype: Any) -> None:
    counts, n = case
    feeds = random_int8_inputs(np.random.default_rng(len(counts)), (len(counts),), *widths, glu(n), dtype)
    feeds["gate_logits"] = logits_of(counts, glu(n))
    steps = run(feeds, glu(n), entry=small(split))
    assert steps.counts.tolist() == list(counts)
    assert_exact_steps(steps, feeds, glu(n))


@pytest.mark.parametrize("widths", [pytest.param((256, 256), marks=pytest.mark.slow), (144, 80)])
@pytest.mark.parametrize("index", FOR_GLU)
def test_every_entry_of_the_table(index: int, widths: tuple[int, int]) -> None:
    entry = entries()[index]
    assert entry.glu is not None
    tokens = min(entry.max_tokens or entry.glu.block_m + 1, 129)
    feeds = random_int8_inputs(np.random.default_rng(index), (tokens,), *widths, glu(2), DTYPES[index % 3])
    feeds["gate_logits"] = logits_of(np.arange(tokens) * 7 % 3, glu(2))
    assert_exact_steps(run(feeds, glu(2), entry=entry), feeds, glu(2))


@PATHS
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_y_is_exact_where_the_activation_is(entry: Entry, activation: str) -> None:
    for seed, dtype in enumerate(DTYPES):
        signature = glu(3, seed % 2, activation)
        feeds = exact_int8_inputs(np.random.default_rng(seed), (40,), 50, 36, signature, dtype)
        y = run(feeds, signature, entry=entry).y
        np.testing.assert_array_equal(y.astype(np.float64), exact_y(feeds, signature).astype(np.float64))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_y_agrees_with_the_reference(activation: str) -> None:
    signature = glu(4, 1, activation)
    feeds = random_int8_inputs(np.random.default_rng(0), (2, 9), 33, 20, signature)
    steps = run(feeds, signature)
    expected, counts = quantized_gated_learners(**feeds, signature=signature)
    np.testing.assert_array_equal(steps.counts, counts)
    one_step = 127 * feeds["s2"].max()
    assert np.abs(steps.y - expected).max() <= 3 * one_step  # a few hidden values may be off by 1
    exact = (np.abs(steps.y - expected) <= 1e-4).all(axis=-1)
    assert exact.mean() > 0.7, "tokens whose hidden values are all rounded as in float64"


@PATHS
def test_scales_of_learners_that_no_token_runs_are_not_used(entry: Entry) -> None:
    signature, hidden = glu(4, 0, "relu"), 20
    feeds = random_int8_inputs(np.random.default_rng(6), (35,), 24, hidden, signature)
    feeds["thresholds"][2:] = INF
    expected = run(feeds, signature, entry=entry)
    for name in ("s1", "b1", "t1", "c1"):
        feeds[name][2 * hidden :] = NAN
    feeds["h_mult"][2:], feeds["b2"][3:] = NAN, NAN
    feeds["w1"][:, 2 * hidden :], feeds["v1"][:, 2 * hidden :], feeds["w2"][2 * hidden :] = 99, 99, 99
    found = run(feeds, signature, entry=entry)
    assert found.counts.max() == 2
    assert found.y.tobytes() == expected.y.tobytes()


@pytest.mark.parametrize("reached", [0, 1, ROWS + 1, 300])
def test_chunks_of_sorted_rows_give_the_same_bits(reached: int) -> None:
    signature, tokens = glu(2), 300
    feeds = random_int8_inputs(np.random.default_rng(1), (tokens,), 20, 16, signature)
    counts = np.random.default_rng(2).permutation(np.where(np.arange(tokens) < reached, 2, np.arange(tokens) % 2))
    feeds["gate_logits"] = logits_of(counts, signature)
    entry = replace(small(0), glu=replace(SMALL_UP, block_m=64))
    whole = run(feeds, signature, entry=entry)
    assert_exact_steps(whole, feeds, signature)
    chunks = run(feeds, signature, entry=entry, hidden_limit=1)
    assert chunks.y.tobytes() == whole.y.tobytes()


@pytest.mark.parametrize("leading", [(0,), (2, 0, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_tokens(leading: tuple[int, ...], dtype: Any) -> None:
    steps = run(random_int8_inputs(np.random.default_rng(0), leading, 5, 4, glu(3, 1), dtype), glu(3, 1))
    assert (steps.y.shape, steps.y.dtype, steps.counts.shape) == ((*leading, 5), np.dtype(dtype), leading)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_all_tokens_with_one_count(tokens: int, count: int) -> None:
    for dtype in DTYPES:
        feeds = random_int8_inputs(np.random.default_rng(1), (tokens,), 33, 17, glu(3), dtype)
        feeds["gate_logits"] = logits_of(np.full(tokens, count), glu(3))
        assert_exact_steps(run(feeds, glu(3)), feeds, glu(3))


@pytest.mark.slow
@pytest.mark.parametrize("split", [0, 2])
def test_the_largest_sums_do_not_overflow(split: int) -> None:
    signature = glu(1, 1, "identity")
    feeds = random_int8_inputs(np.random.default_rng(0), (2,), MAX_SUM, 1, signature)
    feeds["w1"][:], feeds["v1"][:], feeds["w2"][:] = 127, -127, 127
    feeds["x"][:] = np.array([[-1e3], [1e3]], np.float32)
    feeds["s1"][:], feeds["t1"][:], feeds["h_mult"][:] = 1e-9, 1e-9, 10
    up = replace(SMALL_UP, block_n=16, block_k=4096)
    entry = replace(small(split), glu=up, down=replace(SMALL_DOWN, block_n=4096, block_k=64))
    assert_exact_steps(run(feeds, signature, entry=entry), feeds, signature)


def test_dynamic_scales_are_refused_with_the_option_that_avoids_them() -> None:
    feeds = random_int8_inputs(np.random.default_rng(0), (3,), 16, 16, glu(2))
    with pytest.raises(KernelError, match="dynamic = 1") as caught:
        interpreted(int8_operator, feeds, glu(2, dynamic=1))
    assert "--activations static" in str(caught.value.hint)
