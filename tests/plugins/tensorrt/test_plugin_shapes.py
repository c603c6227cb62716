"""Types and shapes that docs/op.md does not allow are refused with what was found and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from plugin_cases import Case

from acm_export.plugins.kernels import plan

if TYPE_CHECKING:
    from plugin_core import Core

pytest_plugins = ["plugin_fixtures"]

CASE = Case(leading=(2, 5), model_dim=64, hidden_dim=32, num_learners=4, min_learners=1)
MANY = plan.MAX_TOKENS + 1
MAX_INDEX, MAX_SIZE = (1 << 31) - 1, (1 << 63) - 1

WRONG = [
    ("x", "int32", "x is int32; it must be float32, float16 or bfloat16"),
    ("w1", "float32", "w1 is float32; with x of float16 it must be float16"),
    ("gate_logits", "float16", "gate_logits is float16; with x of float16 it must be float32"),
    ("counts", "float32", "counts is float32; with x of float16 it must be int32"),
    ("x", (), "x has rank 0, expected 1 to 8"),
    ("x", (2, 5, 0), "x has shape [2, 5, 0]; D must be in 1..2147483647"),
    ("x", (2, 5, 60), "w1 has shape [64, 128], expected [60, 128]"),
    ("gate_logits", (2, 5, 5), "gate_logits has shape [2, 5, 5], expected [2, 5, 4] with x of shape [2, 5, 64]"),
    ("gate_logits", (10, 4), "gate_logits has shape [10, 4], expected [2, 5, 4] with x of shape [2, 5, 64]"),
    ("thresholds", (3,), "thresholds has shape [3], expected [4]"),
    ("thresholds", (4, 1), "thresholds has rank 2, expected 1"),
    ("w1", (64,), "w1 has rank 1, expected 2"),
    ("w1", (64, 126), "N*h is 126 in w1, which is not a positive multiple of num_learners = 4"),
    ("w1", (64, 0), "N*h is 0 in w1, which is not a positive multiple of num_learners = 4"),
    ("b1", (127,), "b1 has shape [127], expected [128]"),
    ("w2", (128, 63), "w2 has shape [128, 63], expected [128, 64]"),
    ("b2", (4, 64), "b2 has shape [4, 64], expected [5, 64]"),
    ("y", (2, 5, 63), "y has shape [2, 5, 63], expected [2, 5, 64] with x of shape [2, 5, 64]"),
    ("counts", (2, 5, 1), "counts has shape [2, 5, 1], expected [2, 5] with x of shape [2, 5, 64]"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG, ids=[f"{name}-{change}" for name, change, _ in WRONG])
def test_invalid_tensors_are_rejected(core: Core, name: str, change: tuple[int, ...] | str, message: str) -> None:
    assert core.layer(CASE).workspace(CASE.tensors(**{name: change})) == -1
    assert core.error == message


@pytest.mark.parametrize("num_learners", [1, 2, 4, 63, 64])
@pytest.mark.parametrize("size", [MAX_INDEX + 1, 1 << 33, 1 << 62, MAX_SIZE])
def test_sizes_up_to_the_largest_64_bit_number_are_rejected(core: Core, size: int, num_learners: int) -> None:
    case = Case(model_dim=MAX_INDEX, num_learners=num_learners)
    layer, width = core.layer(case), size // num_learners * num_learners
    assert layer.workspace(case.tensors(w1=(MAX_INDEX, width))) == -1
    assert core.error == f"N*h is {width} in w1; the kernels support up to {MAX_INDEX}"
    for name, shape in case.shapes().items():
        assert layer.workspace(case.tensors(**{name: (size,) * len(shape)})) == -1
        assert not layer.enqueue(case.tensors(**{name: (size,) * len(shape)}))


def test_the_largest_sizes_are_planned(core: Core) -> None:
    case = Case(leading=(plan.MAX_TOKENS,), model_dim=MAX_INDEX, hidden_dim=MAX_INDEX // 64 // 16 * 16, num_learners=64)
    assert core.layer(case).workspace(case.tensors()) == plan.workspace(case.problem).size


@pytest.mark.parametrize(
    "leading", [(MANY,), (1 << 16, 1 << 15), (1 << 40, 1 << 40), (1 << 62, 1 << 62), (MAX_SIZE,) * 7]
)
def test_too_many_tokens_are_rejected(core: Core, leading: tuple[int, ...]) -> None:
    case = Case(leading=leading)
    assert core.layer(case).workspace(case.tensors()) == -1
    assert core.error.endswith(f"; the kernels support up to {MANY - 1} tokens")


def test_an_unknown_dimension_is_rejected(core: Core) -> None:
    case = Case(leading=(-1, 3))
    assert core.layer(case).workspace(case.tensors()) == -1
    assert core.error == "x has shape [-1, 3, 64]; every dimension must be known"


@pytest.mark.parametrize("leading", [(), (7,), (2, 3, 4), (1 << 20,), (1, 1, 1, 1, 1, 1, 9)])
def test_the_workspace_matches_the_plan(core: Core, leading: tuple[int, ...]) -> None:
    case = Case(leading=leading)
    assert core.layer(case).workspace(case.tensors()) == plan.workspace(case.problem).size
