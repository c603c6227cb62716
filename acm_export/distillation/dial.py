"""Which threshold gives which budget, while the gates are still being trained (pure arithmetic)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

KNOTS = 65
_KEEP = 0.9


class Dial:
    """A table from shares to thresholds, kept up with the margins of recent batches.

    The share is of the learners that gates decide about, weighted by FLOPs: 0 when only ``min_learners`` run, 1 when
    all do.

    Args:
        thresholds: At shares 0, 1/64, ... 1: ``[KNOTS]``, float32, falling. None before the first update.
    """

    def __init__(self, thresholds: torch.Tensor | None = None) -> None:
        self.thresholds = thresholds

    def update(self, found: torch.Tensor) -> None:
        """Move towards the thresholds of one more batch, ``[KNOTS]``."""
        before = self.thresholds
        self.thresholds = found if before is None else _KEEP * before.to(found) + (1 - _KEEP) * found

    def at(self, shares: torch.Tensor) -> torch.Tensor:
        """Thresholds for shares between 0 and 1, of the same shape."""
        if self.thresholds is None:
            return torch.zeros_like(shares)
        table = self.thresholds.to(shares)
        place = shares.clamp(0, 1) * (KNOTS - 1)
        left = place.floor().long().clamp(max=KNOTS - 2)
        return torch.lerp(table[left], table[left + 1], place - left)


def thresholds_of(margins: Mapping[str, torch.Tensor], costs: Mapping[str, float]) -> torch.Tensor:
    """For each knot of the dial the threshold that as large a share of learners exceeds.

    Args:
        margins: By layer, ``[tokens, C - 1]``.
        costs: By layer, FLOPs of a learner in any unit.

    Returns:
        ``[KNOTS]``, float32.
    """
    values = torch.cat([value.reshape(-1) for value in margins.values()])
    weights = torch.cat(
        [torch.full((value.numel(),), costs[name], device=values.device) for name, value in margins.items()]
    )
    order = values.argsort(descending=True)
    reached = weights[order].cumsum(0) / weights.sum()
    places = torch.searchsorted(reached, torch.linspace(0, 1, KNOTS, device=values.device)).clamp(max=len(values) - 1)
    return values[order][places].float()
