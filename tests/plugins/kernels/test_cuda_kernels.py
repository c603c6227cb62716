"""The CUDA kernels for Hopper against the float64 loop, on a CPU: the real sources over emulated instructions.

Copies complete late and in random order, threads go on late, shared memory starts as NaN, and products read it as late
as they may, so these tests find wrong indices, missing barriers and fences, and early releases. They do not find what
only a GPU decides: whether descriptors, tensor maps and fences mean there what the emulation takes them for
(tests/gpu/test_gpu_kernels.py). Blocks run one after another, so they do not compete for tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_kernels import Array, Kernels, compile_kernels
from op_model import TOLERANCE, logits_of, random_inputs

from acm_export.op import Signature
from acm_export.op.reference import gated_learners

pytestmark = pytest.mark.slow

VARIANTS = [
    ("float16", 128, "gelu"),
    pytest.param(("bfloat16", 128, "silu"), marks=pytest.mark.slow),
    pytest.param(("float16", 192, "relu"), marks=pytest.mark.slow),
    pytest.param(("bfloat16", 192, "gelu_tanh"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return compile_kernels(tmp_path_factory.mktemp("cuda") / "sources", *request.param)


def inputs(kernels: Kernels, counts: Array, model_dim: int, hidden_dim: int, learners: int) -> tuple[Any, Signature]:
    signature = Signature(learners, 0, kernels.activation)
    rng = np.random.default_rng([len(counts), model_dim, hidden_dim, learners])
    feeds = random_inputs(rng, (len(counts),), model_dim, hidden_dim, signature, kernels.dtype)
    return feeds | {"gate_logits": logits_of(counts, signature)}, signature


def random_counts(tokens: int, learners: int) -> Array:
    return np.random.default_rng(tokens).binomial(learners, 0.5, tokens).astype(np.int32)


def check(kernels: Kernels, counts: Array, model_dim: int, hidden_dim: int, learners: int, **how: Any) -> None:
    feeds, signature = inputs(kernels, counts, model_dim, hidden_dim, learners)
    expected, expected_counts = gated_learners(**feeds, signature=signature)
    assert (expected_counts == counts).all()
    y = kernels.run(feeds, counts, **how).astype(np.float64)
    np.testing.assert_allclose(
        y, expected, rtol=0, atol=TOLERANCE[np.dtype(kernels.dtype).name] * np.abs(expected).max()
    )


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 300])
def test_tokens_around_the_height_of_a_tile(kernels: Kernels, tokens: int) -> None:
    check(kernels, random_counts(tokens, 3), 64, 48, 3)


@pytest.mark.parametrize(
    ("model_dim", "hidden_dim", "learners"), [(16, 16, 1), (80, 208, 3), (336, 80, 2), (192, 192, 2), (208, 144, 8)]
)
def test_widths_that_end_inside_a_tile_or_a_step(
    kernels: Kernels, model_dim: int, hidden_dim: int, learners: int
) -> None:
    check(kernels, random_counts(200, learners), model_dim, hidden_dim, learners)


@pytest.mark.parametrize("blocks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7))])
def test_any_number_of_blocks_shares_the_tiles(kernels: Kernels, blocks: int) -> None:
    check(kernels, random_counts(600, 4), 272, 80, 4, blocks=blocks)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_every_token_with_the_same_count(kernels: Kernels, count: int) -> None:
    check(kernels, np.full(260, count, np.int32), 64, 64, 4)


def test_many_tiles_in_which_no_learner_runs(kernels: Kernels) -> None:
    counts = np.random.default_rng(0).binomial(2, 0.1, 600).astype(np.int32)
    check(kernels, counts, 208, 48, 2, blocks=1)


def test_chunks_of_sorted_rows(kernels: Kernels) -> None:
    check(kernels, random_counts(700, 3), 64, 48, 3, chunk=256)


@pytest.mark.slow
def test_results_do_not_depend_on_the_order_in_which_copies_complete(kernels: Kernels) -> None:
    counts = random_counts(400, 3)
    feeds, _ = inputs(kernels, counts, 144, 112, 3)
    first, *others = (kernels.run(feeds, counts, seed=seed).tobytes() for seed in range(4))
    assert others == [first] * 3


def test_weights_and_tokens_that_are_not_finite_touch_no_other_token(kernels: Kernels) -> None:
    counts = np.minimum(random_counts(300, 4), 2)
    counts[0] = 4  # runs learners that nobody else runs, in a tile with others
    feeds, signature = inputs(kernels, counts, 64, 48, 4)
    expected, _ = gated_learners(**feeds, signature=signature)
    feeds["x"][0] = np.nan
    for name, axis in (("w1", 1), ("b1", 0), ("w2", 0)):
        np.moveaxis(feeds[name], axis, 0)[2 * 48 :] = np.nan
    y = kernels.run(feeds, counts).astype(np.float64)
    atol = TOLERANCE[np.dtype(kernels.dtype).name] * np.abs(expected).max()
    np.testing.assert_allclose(y[1:], expected[1:], rtol=0, atol=atol)
