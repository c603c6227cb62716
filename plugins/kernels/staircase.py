"""The staircase: the tiles of hidden values that are computed once tokens are sorted by count, descending.

``reach[n]`` tokens run learner n or more; they are the first rows. So the rows of learner n end at ``reach[n]``, and
row r runs learners 1..k, where k is the number of n >= 1 with ``reach[n]`` > r.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_LEARNERS = tl.constexpr(64)


@triton.jit
def grouped(index, num_rows, num_columns, GROUP: tl.constexpr):
    """Row and column of tile ``index``, in groups of GROUP rows, column by column, so that both operands stay in L2."""
    in_group = GROUP * num_columns
    first = index // in_group * GROUP
    height = min(num_rows - first, GROUP)
    return first + index % in_group % height, index % in_group // height


@triton.jit
def learners_of_row(reach, row, num_learners):
    """Number of learners that the token at a sorted row runs."""
    n = tl.arange(0, MAX_LEARNERS)
    tokens = tl.load(reach + 1 + n, mask=n < num_learners, other=0)
    return tl.sum((tokens > row).to(tl.int32), axis=0)


@triton.jit
def active_tile(reach, index, first_row, num_rows, num_columns, num_learners, BLOCK_M: tl.constexpr):
    """Tile ``index`` of those that some token needs, learner after learner.

    Args:
        reach: (num_learners + 1,), int32.
        index: Index of the tile.
        first_row: First sorted row of the chunk.
        num_rows: Rows of the chunk.
        num_columns: Columns of tiles in one learner.
        num_learners: N.
        BLOCK_M: Rows of a tile.

    Returns:
        Learner (from 0; num_learners or more if the index is past the last tile), index of the tile in the learner, and
        rows of the chunk that run the learner.
    """
    n = tl.arange(0, MAX_LEARNERS)
    rows = tl.load(reach + 1 + n, mask=n < num_learners, other=0) - first_row
    rows = tl.minimum(tl.maximum(rows, 0), num_rows)
    tiles = tl.cdiv(rows, BLOCK_M) * num_columns
    ends = tl.cumsum(tiles, axis=0)
    learner = tl.sum((ends <= index).to(tl.int32), axis=0)
    before = tl.sum(tl.where(ends <= index, tiles, 0), axis=0)
    return learner, index - before, tl.sum(tl.where(n == learner, rows, 0), axis=0)


@triton.jit
def padded(hidden_dim):
    """Columns of one learner in the hidden workspace: h rounded up to a multiple of 16, so that rows stay aligned."""
    return tl.cdiv(hidden_dim, 16) * 16
