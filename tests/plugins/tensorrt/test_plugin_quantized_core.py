"""What is special about the int8 operator in the plugin's core; test_plugin_launch.py tests what all share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_cases import QUANTIZED_TENSORS, Case, QuantizedCase
from plugin_core import Core, Driver, address_of, pointers

from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Launch

pytest_plugins = ["plugin_fixtures"]

CASE = QuantizedCase()
ROUTING = ("route_one_block", "count_tokens", "place_tokens")
PRODUCTS = ("quantize_rows", "up_int8", "down_int8", "down_split_int8")


def launches_of(core: Core, driver: Driver, case: Case, **addresses: int) -> list[Launch]:
    """Launches of one call; those of routing are left out."""
    assert core.layer(case).enqueue(case.tensors(), pointers(case.inputs, **addresses)), core.error
    return [run for run in driver.launches() if run.kernel.kernel in PRODUCTS]


def test_grids_and_workspace_written_out(core: Core, driver: Driver) -> None:
    case = QuantizedCase(leading=(197,), model_dim=780, hidden_dim=48, num_learners=3)
    # what both launchers would get wrong in the same way
    quantize, up, down = launches_of(core, driver, case)
    assert quantize.arguments["x_mult"] == ("x_mult", 0)
    assert (up.arguments["w1_t"], up.arguments["h_zero"]) == (("w1", 0), ("h_zero", 0))
    assert (down.arguments["w2_t"], down.arguments["s2"]) == (("w2", 0), ("s2", 0))
    assert quantize.grid == (25, 4)  # blocks of 8 rows and 256 columns
    assert quantize.kernel.entry == 1  # 780 is not a multiple of 16
    tile = entries()[up.kernel.entry].up
    assert up.grid == (-(-197 // tile.block_m) * 3 * -(-48 // tile.block_n), 1)
    assert down.grid[1] == 1
    q, hidden = (up.arguments[name] for name in ("q", "hidden"))
    assert isinstance(q, tuple)
    assert isinstance(hidden, tuple)
    assert hidden[1] - q[1] >= 197 * 784  # rows of q are padded to a multiple of 16 bytes
    assert core.layer(case).workspace(case.tensors()) >= hidden[1] + 197 * 3 * 48


@pytest.mark.parametrize("tokens", [40, 3000])
def test_routing_is_that_of_the_float_operator(core: Core, driver: Driver, tokens: int) -> None:
    routed = []
    for case in (replace(CASE, leading=(tokens,)), Case(leading=(tokens,))):
        assert core.layer(case).enqueue(case.tensors()), core.error
        runs = [run for run in driver.launches() if run.kernel.kernel in ROUTING]
        routed.append(
            [(run.kernel, run.grid, run.arguments["gate_logits" if i == 0 else "counts"]) for i, run in enumerate(runs)]
        )
    assert routed[0] == routed[1]
    assert len(routed[0]) == (1 if tokens == 40 else 2)


@pytest.mark.parametrize("name", [name for name in QUANTIZED_TENSORS if name not in ("gate_logits", "thresholds")])
def test_an_unaligned_address_gets_kernels_without_wide_loads(core: Core, driver: Driver, name: str) -> None:
    quantize, up, _ = launches_of(core, driver, CASE, **{name: address_of(name) + 4})
    alignment = 16 if name == "counts" else 1
    assert entries()[up.kernel.entry].alignment == alignment
    assert quantize.kernel.entry == alignment


SHAPES = QuantizedCase(leading=(2, 5), model_dim=63, hidden_dim=31, num_learners=3, min_learners=1)
PACKING = "{} is int8; files for TensorRT pack int8 values into int32: rewrite this file with acm-export build-engine"
WRONG = [
    ("x", "int8", "x is int8; it must be float32, float16 or bfloat16"),
    ("w1", "int8", PACKING.format("w1")),
    ("h_zero", "int8", PACKING.format("h_zero")),
    ("w2", "float16", "w2 is float16; with x of float16 it must be int32"),
    ("b1", "float16", "b1 is float16; with x of float16 it must be float32"),
    ("b2", "float16", "b2 is float16; with x of float16 it must be float32"),
    ("s1", "int32", "s1 is int32; with x of float16 it must be float32"),
    ("y", "float32", "y is float32; with x of float16 it must be float16"),
    ("counts", "int8", "counts is int8; with x of float16 it must be int32"),
    ("x_mult", (62,), "x_mult has shape [62], expected [63]"),
    ("w1", (93, 63), "w1 has rank 2, expected 1"),
    ("w1", (1464,), "w1 has shape [1464], expected [1465]"),
    ("s1", (92,), "N*h is 92 in s1, which is not a positive multiple of num_learners = 3"),
    ("s1", (3, 31), "s1 has rank 2, expected 1"),
    ("b1", (92,), "b1 has shape [92], expected [93]"),
    ("h_mult", (4,), "h_mult has shape [4], expected [3]"),
    ("h_zero", (3,), "h_zero has shape [3], expected [1]"),
    ("w2", (1466,), "w2 has shape [1466], expected [1465]"),
    ("s2", (93,), "s2 has shape [93], expected [63]"),
    ("b2", (3, 63), "b2 has shape [3, 63], expected [4, 63]"),
    ("gate_logits", (2, 5, 4), "gate_logits has shape [2, 5, 4], expected [2, 5, 3]"),
    ("counts", (2, 5, 1), "counts has shape [2, 5, 1], expected [2, 5]"),
]


@pytest.mark.parametrize(("name", "change", "reason"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG])
def test_wrong_types_and_shapes_are_rejected_with_both_values(
    core: Core, driver: Driver, name: str, change: Any, reason: str
) -> None:
    case, layer = SHAPES, core.layer(SHAPES)
    assert layer.enqueue(case.tensors()), core.error
    assert driver.launches() != []
    for step in (layer.prepare, layer.enqueue):
        assert not step(case.tensors(**{name: change}))
        assert reason in core.error
    assert layer.workspace(case.tensors(**{name: change})) < 0
    assert driver.launches() == []


@pytest.mark.parametrize(
    ("case", "accepted"),
    [
        (QuantizedCase(model_dim=130_000, hidden_dim=1, num_learners=1), True),
        (QuantizedCase(model_dim=130_001, hidden_dim=1, num_learners=1), False),
        (QuantizedCase(model_dim=1, hidden_dim=32_500), True),
        (QuantizedCase(model_dim=1, hidden_dim=32_501), False),
    ],
    ids=str,
)
def test_sizes_whose_int32_sums_could_overflow_are_rejected(core: Core, case: QuantizedCase, accepted: bool) -> None:
    assert (core.layer(case).workspace(case.tensors()) > 0) == accepted
    if not accepted:
        width = case.num_learners * case.hidden_dim
        expected = f"D is {case.model_dim} and N*h is {width}; int32 sums of int8 products allow at most 130000 of each"
        assert core.error == expected
