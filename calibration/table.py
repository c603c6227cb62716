"""Build a budget table: solve its knots, compare them with simpler solvers, and check the budget between knots."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import CalibrationError
from acm_export.calibration.closed_loop import TOLERANCE, ClosedLoop, Solution
from acm_export.calibration.knots import NEAREST, Comparison, Knot, knot_budgets
from acm_export.onnx_file.budget_table import BudgetTable, hat_weights, interpolate
from acm_export.onnx_file.thresholds import by_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from acm_export.calibration.families import ThresholdFamily
    from acm_export.onnx_file.manifest import LayerEntry
    from acm_export.verification.measurement import Measurement

BETWEEN = 3 * TOLERANCE
"""Largest difference between the budget midway between two knots and the one measured there."""

_HALVINGS = 2
_ABOUT = 1 / 8
_MIXTURES = 4
_NO_DIVERGENCE = 1e-12


@dataclass(frozen=True)
class _Bounded:
    """A family clipped between two settings, so that thresholds stay monotone from knot to knot."""

    family: ThresholdFamily
    floor: NDArray[np.float32]
    ceiling: NDArray[np.float32]

    @property
    def name(self) -> str:
        return self.family.name

    def thresholds(self, share: float) -> NDArray[np.float32]:
        return np.clip(self.family.thresholds(share), self.floor, self.ceiling)


class TableBuilder:
    """Builds the table of one model.

    Args:
        candidates: Families to take thresholds from; the first is preferred.
        rivals: Names of the families that the table should not do worse than.
        measure: Measures a setting on the calibration data.
        expect: Estimates the budget of a setting from margins alone.
    """

    def __init__(
        self,
        candidates: Sequence[ThresholdFamily],
        rivals: Sequence[str],
        measure: Callable[[NDArray[np.float32]], Measurement],
        expect: Callable[[NDArray[np.float32]], float],
    ) -> None:
        self._measure, self._expect, self._rivals = measure, expect, rivals
        self._loops = {family.name: self._loop(family) for family in candidates}
        self._preferred = candidates[0]

    def build(self, requested: Sequence[float], also: Iterable[float]) -> tuple[list[Knot], list[Comparison]]:
        """Build the table.

        Knots are at the requested budgets, at every tenth, and where the budget midway between two would be off.

        Args:
            requested: Budgets that must be met.
            also: More budgets for knots.

        Returns:
            Knots, ascending, and a comparison with the rivals for each of them but the ends.

        Raises:
            CalibrationError: A requested budget cannot be reached, or not closely enough.
        """
        ends = self._loops[self._preferred.name]
        least, most = _as_knot(ends.least(), ends), _as_knot(ends.most(), ends)
        tenths = (tenth / 10 for tenth in range(1, 10))
        budgets = knot_budgets(least.budget, most.budget, requested, [*also, *tenths])
        solved = {budget: self._solve_all(budget, needed=budget in requested) for budget in budgets}
        chain = self._best_chain(solved, {*requested} & {*budgets}, least, most)
        compared = [
            Comparison(
                budget, chain[budget], {name: solved[budget][name] for name in self._rivals if name in solved[budget]}
            )
            for budget in sorted(chain)
        ]
        knots = [least]
        for knot in [*(c.knot for c in compared if least.budget < c.knot.budget < most.budget), most]:
            if knot.budget > knots[-1].budget:
                knots += [*self._between(knots[-1], knot, _HALVINGS), knot]
        return knots, compared

    def _solve_all(self, budget: float, *, needed: bool) -> dict[str, Knot]:
        """Thresholds of each candidate for a budget, for those that reach it."""
        solved = {name: _attempt(loop, budget) for name, loop in self._loops.items()}
        knots = {name: found for name, found in solved.items() if isinstance(found, Knot)}
        if needed and not knots:
            raise next(found for found in solved.values() if isinstance(found, CalibrationError))
        return knots

    def _solve_between(self, bounded: _Bounded, budget: float, unbounded: Knot) -> Knot | None:
        """A candidate for a budget between two settings, or None if it has none there."""
        if (np.clip(unbounded.thresholds, bounded.floor, bounded.ceiling) == unbounded.thresholds).all():
            return unbounded
        found = _attempt(self._loop(bounded), budget)
        return found if isinstance(found, Knot) else None

    def _best_chain(
        self, solved: dict[float, dict[str, Knot]], needed: set[float], least: Knot, most: Knot
    ) -> dict[float, Knot]:
        """The best of several monotone tables: one candidate throughout, or a mixture of the best ones.

        The first choice of a mixture is free, later ones must fit in between. So the budgets at which a mixture loses
        to a rival come first in the next mixture.
        """
        alone = [{b: knots[name] for b, knots in solved.items() if name in knots} for name in self._loops]
        chains = [chain for chain in alone if _ordered(list(chain.values()))]
        order = sorted(solved)
        for _ in range(_MIXTURES):
            mixed = self._mixed(order, solved, least, most)
            chains.append(mixed)
            lost = [b for b in order if (self._loses(mixed[b], solved[b]) if b in mixed else b in needed)]
            if not lost:
                break
            order = [*lost, *(budget for budget in order if budget not in lost)]
        complete = [chain for chain in chains if needed <= {*chain}]
        if not complete:
            raise CalibrationError(
                f"no thresholds meet the budgets {', '.join(f'{budget:g}' for budget in sorted(needed))} and decrease "
                "from each to the next larger one, because tokens share their margins",
                "give more samples that differ, or request fewer budgets",
            )
        return min(complete, key=lambda chain: self._score(chain, solved))

    def _score(self, chain: dict[float, Knot], solved: dict[float, dict[str, Knot]]) -> tuple[int, float]:
        """Number of budgets at which a rival is better, then the mean log divergence; smaller is better."""
        lost = sum(self._loses(knot, solved[budget]) for budget, knot in chain.items())
        logs = [np.log(knot.measured.divergence + _NO_DIVERGENCE) for knot in chain.values()]
        return lost, float(np.mean(logs or [0.0]))

    def _loses(self, knot: Knot, solved: dict[str, Knot]) -> bool:
        """Whether a rival has a smaller divergence."""
        rivals = (solved[name] for name in self._rivals if name in solved)
        return any(rival.measured.divergence < knot.measured.divergence for rival in rivals)

    def _mixed(
        self, order: Sequence[float], solved: dict[float, dict[str, Knot]], least: Knot, most: Knot
    ) -> dict[float, Knot]:
        """The best candidate at each budget that fits between those already chosen, if any does."""
        chosen = {least.budget: least, most.budget: most}
        for budget in order:
            floor = chosen[min(b for b in chosen if b >= budget)].thresholds
            ceiling = chosen[max(b for b in chosen if b < budget)].thresholds
            if (best := self._best_between(budget, solved[budget], floor, ceiling)) is not None:
                chosen[budget] = best
        return {budget: chosen[budget] for budget in sorted(solved, reverse=True) if budget in chosen}

    def _best_between(
        self, budget: float, solved: dict[str, Knot], floor: NDArray[np.float32], ceiling: NDArray[np.float32]
    ) -> Knot | None:
        """The best candidate for a budget between two settings.

        A setting costs a pass over the data, so candidates that lose even without bounds are not solved again.
        """
        best: Knot | None = None
        for name, knot in sorted(solved.items(), key=lambda item: item[1].measured.divergence):
            if best is not None and knot.measured.divergence >= best.measured.divergence:
                break
            found = self._solve_between(_Bounded(self._loops[name].family, floor, ceiling), budget, knot)
            if found and (best is None or found.measured.divergence < best.measured.divergence):
                best = found
        return best

    def _between(self, low: Knot, high: Knot, halvings: int) -> list[Knot]:
        """Knots to add between two, so that interpolation midway has the right budget."""
        middle = (low.budget + high.budget) / 2
        if not halvings or high.budget - low.budget < 2 * NEAREST:
            return []
        weights = hat_weights(middle, np.array([low.budget, high.budget], np.float32))
        lerped = self._measure(interpolate(weights, np.stack([low.thresholds, high.thresholds])))
        if abs(lerped.budget - middle) <= BETWEEN:
            return []
        bounded = _Bounded(self._preferred, high.thresholds, low.thresholds)
        added = _attempt(self._loop(bounded, (high.budget - low.budget) * _ABOUT), middle)
        if not isinstance(added, Knot) or not low.budget < added.budget < high.budget:
            return []
        return [*self._between(low, added, halvings - 1), added, *self._between(added, high, halvings - 1)]

    def _loop(self, family: ThresholdFamily, tolerance: float = TOLERANCE) -> ClosedLoop:
        return ClosedLoop(family, self._measure, self._expect, tolerance)


def _attempt(loop: ClosedLoop, budget: float) -> Knot | CalibrationError:
    """Solve for a budget; returns the error if that fails."""
    try:
        return _as_knot(loop.solve(budget), loop)
    except CalibrationError as refusal:
        return refusal


def _as_knot(solution: Solution, loop: ClosedLoop) -> Knot:
    return Knot(solution.thresholds, solution.measured, loop.family.name, solution.rounds)


def _ordered(descending: Sequence[Knot]) -> bool:
    """Whether no threshold decreases from a budget to the next smaller one."""
    return all((low.thresholds >= high.thresholds).all() for high, low in pairwise(descending))


def as_table(knots: Sequence[Knot], layers: tuple[LayerEntry, ...]) -> BudgetTable:
    """The table for the manifest, in the shortest decimals that read back as the same float32."""
    rows = [by_layer(layers, knot.thresholds) for knot in knots]
    return BudgetTable(
        tuple(shortest(knot.budget) for knot in knots),
        {layer.name: tuple(tuple(shortest(v) for v in row[layer.name]) for row in rows) for layer in layers},
    )


def shortest(value: float | np.float32) -> float:
    """The shortest decimal that reads as the same float32."""
    return float(str(np.float32(value)))
