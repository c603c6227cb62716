"""What only GLUGatedLearners has in the Triton kernels, interpreted; test_kernel_op.py tests what it shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_processes import interpreted
from kernel_runs import UNWRITTEN, hidden_values, operator
from op_model import TOLERANCE, assert_matches_loop, random_inputs
from test_kernel_op import DTYPES, small

from acm_export.base.errors import KernelError
from acm_export.op import Signature
from acm_export.op.reference import gated_learners
from acm_export.plugins.kernels.tiles import Tile

INF, NAN = float("inf"), float("nan")


def glu(num_learners: int, min_learners: int = 0, activation: str = "silu") -> Signature:
    return Signature(num_learners, min_learners, activation, glu=True)


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
