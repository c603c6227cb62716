"""FLOPs of ACM layers: pure arithmetic, one multiply-add counted as 2, matrix products only.

The convention is that of ``torch.utils.flop_counter``, which counts the dense rest of a model (export/measure.py).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def learner_flops(model_dim: int, hidden_dim: int) -> int:
    """FLOPs per token of one learner: up and down projection, 4·D·h."""
    return 4 * model_dim * hidden_dim


def gate_flops(dims: Sequence[int]) -> int:
    """FLOPs per token of a gate whose linear maps have widths ``dims`` = (D, ..., C)."""
    return sum(2 * a * b for a, b in pairwise(dims))
