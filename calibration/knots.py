"""Knots of a budget table: their budgets, and how they compare with simpler solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.calibration.closed_loop import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.verification.measurement import Measurement

NEAREST = 0.005
"""Smallest difference between the budgets of two knots, except for requested budgets."""


@dataclass(frozen=True)
class Knot:
    """One row of the table: thresholds with a measured budget, between which the table interpolates.

    Args:
        thresholds: Thresholds of all layers, one after the other.
        measured: Measurement on the calibration data.
        family: Name of the family that the thresholds come from.
        rounds: Settings that were measured to find them.
    """

    thresholds: NDArray[np.float32]
    measured: Measurement
    family: str
    rounds: int

    @property
    def budget(self) -> float:
        """Measured β."""
        return self.measured.budget


@dataclass(frozen=True)
class Comparison:
    """A knot compared with simpler solvers at one budget, on the calibration data.

    Args:
        budget: Budget β.
        knot: Knot of the table.
        rivals: Knots of simpler families with the same budget, by the name of the family.
    """

    budget: float
    knot: Knot
    rivals: dict[str, Knot]

    @property
    def lost_to(self) -> list[str]:
        """Names of the rivals with a smaller divergence."""
        return [n for n, rival in self.rivals.items() if rival.measured.divergence < self.knot.measured.divergence]


def knot_budgets(smallest: float, largest: float, requested: Iterable[float], also: Iterable[float]) -> list[float]:
    """Budgets of the knots between the ends, descending.

    Args:
        smallest: Smallest reachable budget.
        largest: Largest reachable budget.
        requested: Budgets to keep in any case, except those that the ends meet.
        also: Budgets to keep unless one that is kept is close by.
    """
    kept = [budget for budget in requested if smallest + TOLERANCE < budget < largest - TOLERANCE]
    for budget in sorted(also):
        inside = smallest + NEAREST < budget < largest - NEAREST
        if inside and all(abs(budget - other) > NEAREST for other in kept):
            kept.append(budget)
    return sorted(set(kept), reverse=True)
