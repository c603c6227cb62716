"""Grid sizes of both GEMMs for an entry of the tile table, and whether its tiles fit the shape exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.plugins.kernels.plan import QUANTIZE_BLOCK, cdiv

if TYPE_CHECKING:
    from acm_export.plugins.kernels.plan import Problem
    from acm_export.plugins.kernels.tiles import Entry


def up_grid(problem: Problem, entry: Entry, num_rows: int) -> int:
    """Blocks of GEMM 1 for a chunk."""
    tile = entry.up_for(problem)
    return cdiv(num_rows, tile.block_m) * problem.num_learners * cdiv(problem.hidden_dim, tile.block_n)


def down_grid(problem: Problem, entry: Entry, num_rows: int) -> int:
    """Blocks of GEMM 2 for a chunk; for one slice if K is split."""
    return cdiv(num_rows, entry.down.block_m) * cdiv(problem.model_dim, entry.down.block_n)


def quantize_grid(problem: Problem, num_rows: int) -> tuple[int, int]:
    """Blocks of ``quantize_rows`` for a chunk, along rows and columns."""
    rows, columns = QUANTIZE_BLOCK
    return cdiv(num_rows, rows), cdiv(problem.model_dim, columns)


def num_arrivals(problem: Problem, entry: Entry) -> int:
    """Arrivals that routing sets to 0 for GEMM 2: one per tile if K is split, else none."""
    return down_grid(problem, entry, problem.tokens) if entry.split else 0


def even(problem: Problem, entry: Entry) -> tuple[bool, bool]:
    """Whether tiles of GEMM 1 and of GEMM 2 never reach past D or h, so that loads need no masks."""
    d, h, up = problem.model_dim, problem.hidden_dim, entry.up_for(problem)
    return (
        d % up.block_k == 0 and h % up.block_n == 0,
        h % entry.down.block_k == 0 and d % entry.down.block_n == 0,
    )
