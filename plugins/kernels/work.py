"""Work of a routing: multiply-adds in the executed tiles, and those that the tokens need. Arithmetic over counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.plugins.kernels.plan import cdiv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.plugins.kernels.plan import Problem
    from acm_export.plugins.kernels.tiles import Entry


@dataclass(frozen=True)
class Work:
    """Multiply-adds of both GEMMs.

    Args:
        executed: In the tiles that the kernels compute, including rows and columns past the edges.
        needed: By the tokens: count x 2 x D x h each, or count x 3 x D x h if learners are GLUs.
    """

    executed: int
    needed: int


def work(problem: Problem, entry: Entry, counts: NDArray[np.int32]) -> Work:
    """Work of one call.

    Args:
        problem: Shapes.
        entry: Tile sizes.
        counts: Learner count of each token, int32 ``[tokens]``, in any order.
    """
    in_order = np.sort(np.asarray(counts))[::-1]
    executed = 0
    for first, rows in problem.chunks():
        executed += _up(problem, entry, in_order[first : first + rows])
        executed += _down(problem, entry, in_order[first : first + rows])
    products = 3 if problem.glu else 2
    return Work(executed, int(in_order.sum()) * products * problem.model_dim * problem.hidden_dim)


def _up(problem: Problem, entry: Entry, counts: NDArray[np.int32]) -> int:
    tile, products = entry.up_for(problem), 2 if problem.glu else 1
    rows = np.array([np.count_nonzero(counts > learner) for learner in range(problem.num_learners)])
    tiles = int((-(-rows // tile.block_m)).sum()) * cdiv(problem.hidden_dim, tile.block_n)
    return products * tiles * tile.block_m * tile.block_n * cdiv(problem.model_dim, tile.block_k) * tile.block_k


def _down(problem: Problem, entry: Entry, counts: NDArray[np.int32]) -> int:
    tile = entry.down
    steps = int(counts[:: tile.block_m].astype(np.int64).sum()) * cdiv(problem.hidden_dim, tile.block_k)
    return steps * tile.block_k * tile.block_m * cdiv(problem.model_dim, tile.block_n) * tile.block_n
