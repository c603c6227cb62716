"""Thresholds for every budget while the gates are still being trained; pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

KNOTS = 65
_KEEP = 0.9


class ThresholdTable:
    """A table from shares of learner FLOPs to thresholds: a moving average over recent batches.

    A share counts only the FLOPs of gated learners: 0 when only ``min_learners`` run, 1 when all learners run.

    Args:
        thresholds: Thresholds at the shares 0, 1/64, ... 1: ``[KNOTS]``, float32, decreasing. None before the first
            update.
    """

    def __init__(self, thresholds: torch.Tensor | None = None) -> None:
        self.thresholds = thresholds

    def update(self, found: torch.Tensor) -> None:
        """Move the table towards the thresholds of one more batch, ``[KNOTS]``."""
        before = self.thresholds
        self.thresholds = found if before is None else _KEEP * before.to(found) + (1 - _KEEP) * found

    def at(self, shares: torch.Tensor) -> torch.Tensor:
        """Thresholds for shares between 0 and 1, in the same shape; 0 before the first update."""
        if self.thresholds is None:
            return torch.zeros_like(shares)
        table = self.thresholds.to(shares)
        position = shares.clamp(0, 1) * (KNOTS - 1)
        left = position.floor().long().clamp(max=KNOTS - 2)
        return torch.lerp(table[left], table[left + 1], position - left)


def thresholds_by_share(margins: Mapping[str, torch.Tensor], costs: Mapping[str, float]) -> torch.Tensor:
    """Find, for each knot of the table, the threshold that this share of the learners exceeds.

    Args:
        margins: Margins by layer, ``[tokens, C - 1]``.
        costs: FLOPs of one learner by layer, in any unit.

    Returns:
        ``[KNOTS]``, float32.
    """
    values = torch.cat([value.reshape(-1) for value in margins.values()])
    weights = torch.cat(
        [torch.full((value.numel(),), costs[name], device=values.device) for name, value in margins.items()]
    )
    order = values.argsort(descending=True)
    reached = weights[order].cumsum(0) / weights.sum()
    indices = torch.searchsorted(reached, torch.linspace(0, 1, KNOTS, device=values.device)).clamp(max=len(values) - 1)
    return values[order][indices].float()
