"""Building a budget table: knots by closed loop, held against other solvers, and checked between the knots."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import CalibrationError
from acm_export.calibration.closed_loop import TOLERANCE, ClosedLoop, Solution
from acm_export.onnx_file.budget_table import BudgetTable, hat_weights, interpolate
from acm_export.onnx_file.thresholds import by_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from acm_export.calibration.families import ThresholdFamily
    from acm_export.onnx_file.manifest import LayerEntry
    from acm_export.verification.measurement import Measurement

BETWEEN = 3 * TOLERANCE
"""Largest difference between a budget half-way between two knots and the one measured there."""

_HALVINGS = 2
_ABOUT = 1 / 8
_NEAREST = 0.005
_MIXTURES = 4
_NO_DIVERGENCE = 1e-12


@dataclass(frozen=True)
class Knot:
    """One budget of the table.

    Args:
        thresholds: Of all layers, one after the other.
        measured: On the calibration data.
        family: Where the thresholds come from.
        rounds: Settings that were run to find them.
    """

    thresholds: NDArray[np.float32]
    measured: Measurement
    family: str
    rounds: int

    @property
    def budget(self) -> float:
        """β as measured."""
        return self.measured.budget


@dataclass(frozen=True)
class Comparison:
    """A knot and its rivals at one budget, on the calibration data.

    Args:
        budget: β.
        knot: Of the table.
        rivals: By the name of the family, thresholds that have the same budget.
    """

    budget: float
    knot: Knot
    rivals: dict[str, Knot]

    @property
    def lost_to(self) -> list[str]:
        """Rivals whose output is nearer to that of all learners."""
        return [n for n, rival in self.rivals.items() if rival.measured.divergence < self.knot.measured.divergence]


@dataclass(frozen=True)
class _Bounded:
    """A family kept between two settings, so that thresholds stay monotone from knot to knot."""

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
        rivals: Names of those that the table shall not do worse than.
        measure: Runs a setting over the calibration data.
        expect: The budget that margins alone let expect of a setting.
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

        Knots lie at the requested budgets, at every tenth, and where budgets half-way between would be off.

        Args:
            requested: Budgets that must be met.
            also: More budgets for knots.

        Returns:
            Knots, ascending, and how each of them but the ends compares with the rivals.

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
        """Each candidate's thresholds for a budget, where it has any."""
        solved = {name: _attempt(loop, budget) for name, loop in self._loops.items()}
        knots = {name: found for name, found in solved.items() if isinstance(found, Knot)}
        if needed and not knots:
            raise next(found for found in solved.values() if isinstance(found, CalibrationError))
        return knots

    def _solve_between(self, bounded: _Bounded, budget: float, unbounded: Knot) -> Knot | None:
        """A candidate for a budget between two settings, or None where it has nothing there."""
        if (np.clip(unbounded.thresholds, bounded.floor, bounded.ceiling) == unbounded.thresholds).all():
            return unbounded
        found = _attempt(self._loop(bounded), budget)
        return found if isinstance(found, Knot) else None

    def _best_chain(
        self, solved: dict[float, dict[str, Knot]], needed: set[float], least: Knot, most: Knot
    ) -> dict[float, Knot]:
        """The best of several monotone tables: one candidate throughout, or the best ones mixed.

        What is chosen first in a mixture is free, what comes later must fit in between. So budgets at which a mixture
        loses to a rival come first in the next one.
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
                f"no thresholds meet the budgets {', '.join(f'{budget:g}' for budget in sorted(needed))} and fall from "
                "each to the next larger one, because tokens share their margins",
                "give more samples that differ, or ask for fewer budgets",
            )
        return min(complete, key=lambda chain: self._score(chain, solved))

    def _score(self, chain: dict[float, Knot], solved: dict[float, dict[str, Knot]]) -> tuple[int, float]:
        """At how many budgets a rival is better, then the mean logarithm of the divergence; smaller is better."""
        lost = sum(self._loses(knot, solved[budget]) for budget, knot in chain.items())
        logs = [np.log(knot.measured.divergence + _NO_DIVERGENCE) for knot in chain.values()]
        return lost, float(np.mean(logs or [0.0]))

    def _loses(self, knot: Knot, solved: dict[str, Knot]) -> bool:
        """Whether a rival is nearer to the output with all learners."""
        rivals = (solved[name] for name in self._rivals if name in solved)
        return any(rival.measured.divergence < knot.measured.divergence for rival in rivals)

    def _mixed(
        self, order: Sequence[float], solved: dict[float, dict[str, Knot]], least: Knot, most: Knot
    ) -> dict[float, Knot]:
        """At each budget the best candidate that fits between those chosen already, where one does."""
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

        A setting costs a pass over the data, so candidates that lose even without bounds are not solved with them.
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
        """Knots to add between two, so that interpolation half-way has the budget that it should have."""
        middle = (low.budget + high.budget) / 2
        if not halvings or high.budget - low.budget < 2 * _NEAREST:
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
    """Solve for a budget; a refusal is a result too."""
    try:
        return _as_knot(loop.solve(budget), loop)
    except CalibrationError as refusal:
        return refusal


def _as_knot(solution: Solution, loop: ClosedLoop) -> Knot:
    return Knot(solution.thresholds, solution.measured, loop.family.name, solution.rounds)


def _ordered(descending: Sequence[Knot]) -> bool:
    """Whether no threshold falls from a budget to the next smaller one."""
    return all((low.thresholds >= high.thresholds).all() for high, low in pairwise(descending))


def knot_budgets(smallest: float, largest: float, requested: Iterable[float], also: Iterable[float]) -> list[float]:
    """Budgets of the knots between the ends, descending.

    Args:
        smallest: The smallest reachable budget.
        largest: The largest.
        requested: Are kept whatever lies beside them, but for those that the ends meet.
        also: Are kept where none that is kept lies beside them.
    """
    kept = [budget for budget in requested if smallest + TOLERANCE < budget < largest - TOLERANCE]
    for budget in sorted(also):
        inside = smallest + _NEAREST < budget < largest - _NEAREST
        if inside and all(abs(budget - other) > _NEAREST for other in kept):
            kept.append(budget)
    return sorted(set(kept), reverse=True)


def as_table(knots: Sequence[Knot], layers: tuple[LayerEntry, ...]) -> BudgetTable:
    """The table as the manifest has it, in numbers that a float32 is read back from unchanged."""
    rows = [by_layer(layers, knot.thresholds) for knot in knots]
    return BudgetTable(
        tuple(shortest(knot.budget) for knot in knots),
        {layer.name: tuple(tuple(shortest(v) for v in row[layer.name]) for row in rows) for layer in layers},
    )


def shortest(value: float | np.float32) -> float:
    """The shortest decimal that reads as the same float32."""
    return float(str(np.float32(value)))
