"""Shared memory, grids and tensor maps of the kernels in plugins/kernels/cuda. Arithmetic over shapes.

A tensor map describes a tensor and the box of it that one TMA copy reads. Values past the edge of the tensor are read
as 0, so widths need not be multiples of a tile. The C++ plugin has the same arithmetic (core/hopper.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.plugins.kernels.grids import down_grid, up_grid
from acm_export.plugins.kernels.plan import cdiv

if TYPE_CHECKING:
    from acm_export.plugins.kernels.plan import Problem
    from acm_export.plugins.kernels.tiles import Entry, Tile

UP, DOWN = "up_hopper", "down_hopper"
SOURCES = {UP: "up.cu", DOWN: "down.cu"}
ARGUMENTS = {
    UP: (
        "w1_map",
        "x",
        "order",
        "reach",
        "b1",
        "arrivals",
        "hidden",
        "first_row",
        "num_rows",
        "model_dim",
        "hidden_dim",
        "num_learners",
    ),
    DOWN: (
        "hidden_map",
        "w2_map",
        "order",
        "reach",
        "b2",
        "arrivals",
        "y",
        "first_row",
        "num_rows",
        "model_dim",
        "hidden_dim",
        "num_learners",
    ),
}
"""Arguments of each kernel, in the order of its source."""

_NUMBERS = {"first_row", "num_rows", "model_dim", "hidden_dim", "num_learners"}
_BOX = 64
"""Columns of a box: 128 bytes, the width of the swizzle."""

_WARPS = 8
"""Warps that multiply."""

_SLOTS = 4
"""Slots of the queue of tiles."""


@dataclass(frozen=True)
class TensorMap:
    """A tensor of 16-bit values as three dimensions, the innermost first, and the box that one copy takes.

    Args:
        tensor: Name of the tensor: ``w1``, ``w2`` or ``hidden``.
        dims: Extents.
        strides: Strides of the second and third dimension in bytes.
        box: Extents of the box.
    """

    tensor: str
    dims: tuple[int, int, int]
    strides: tuple[int, int]
    box: tuple[int, int, int]


def tensor_maps(problem: Problem, entry: Entry, num_rows: int) -> dict[str, TensorMap]:
    """The tensor maps that the kernels take, by argument name.

    Args:
        problem: Shapes; D and h are multiples of 16.
        entry: Tile sizes.
        num_rows: Sorted rows of the chunk.
    """
    d, h, n = problem.model_dim, problem.hidden_dim, problem.num_learners
    rows = cdiv(num_rows, entry.down.block_m) * entry.down.block_m
    return {
        "w1_map": TensorMap("w1", (h, n, d), (2 * h, 2 * n * h), (_BOX, 1, entry.up.block_k)),
        "hidden_map": TensorMap("hidden", (h, n, rows), (2 * h, 2 * n * h), (_BOX, 1, entry.down.block_m)),
        "w2_map": TensorMap("w2", (d, h, n), (2 * d, 2 * h * d), (_BOX, entry.down.block_k, 1)),
    }


def shared_bytes(tile: Tile) -> int:
    """Dynamic shared memory of a block: the ring, half a row block of each warp, barriers, and the queue of tiles."""
    stage = 2 * tile.block_k * (tile.block_m + tile.block_n)
    staging = _WARPS * 16 * (tile.block_n + 16)
    return tile.stages * stage + staging + 8 * (3 * tile.stages + 2 + 3 * _SLOTS)


def grids(problem: Problem, entry: Entry, num_rows: int, multiprocessors: int) -> tuple[int, int]:
    """Blocks of both GEMMs for a chunk: one per multiprocessor, or one per tile if there are fewer tiles."""
    return (
        min(up_grid(problem, entry, num_rows), multiprocessors),
        min(down_grid(problem, entry, num_rows), multiprocessors),
    )


def kind(argument: str) -> str:
    """How an argument is passed: ``map`` (128 bytes by value), ``i32`` or ``ptr``."""
    if argument.endswith("_map"):
        return "map"
    return "i32" if argument in _NUMBERS else "ptr"
