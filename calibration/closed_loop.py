"""Find thresholds whose measured budget is the requested one.

Thresholds in one layer change the inputs of later layers, and with them their margins. So the budget of a setting is
measured, the parameter corrected between two settings that bracket the request, and the budget measured again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from acm_export.base.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.calibration.families import ThresholdFamily
    from acm_export.verification.measurement import Measurement

TOLERANCE = 0.002
"""Largest difference between the requested budget and the one measured on the calibration data."""

_MAX_ROUNDS = 40
_NARROWEST = 1e-7
_SAFEGUARD = 0.05
_GUESS_HALVINGS = 14


@dataclass(frozen=True)
class Solution:
    """Thresholds for a budget.

    Args:
        parameter: Parameter of the family.
        thresholds: Thresholds of all layers, one after the other.
        measured: Measurement on the calibration data.
        rounds: Settings that were measured to meet this budget.
    """

    parameter: float
    thresholds: NDArray[np.float32]
    measured: Measurement
    rounds: int


@dataclass
class ClosedLoop:
    """Solves one family for budgets; measurements are kept, so that each search starts from earlier ones.

    Args:
        family: Thresholds by one parameter.
        measure: Measures a setting on the calibration data.
        expect: Estimates the budget of a setting from margins alone, for the first guess.
        tolerance: Largest error of the budget.
    """

    family: ThresholdFamily
    measure: Callable[[NDArray[np.float32]], Measurement]
    expect: Callable[[NDArray[np.float32]], float]
    tolerance: float = TOLERANCE
    _known: dict[float, tuple[float, NDArray[np.float32], Measurement]] = field(default_factory=dict)

    def least(self) -> Solution:
        """Setting with the smallest budget of the family."""
        return self._solution(0.0, 1)

    def most(self) -> Solution:
        """Setting with the largest budget of the family."""
        return self._solution(1.0, 1)

    def solve(self, budget: float) -> Solution:
        """Find the parameter whose measured budget is ``budget``.

        Raises:
            CalibrationError: The budget is outside the range of the family, or no parameter comes close enough.
        """
        ends = self.least(), self.most()
        for end in ends:
            if abs(end.measured.budget - budget) <= self.tolerance:
                return end
        least, most = (end.measured.budget for end in ends)
        if not least < budget < most:
            bound = f"smallest is {least:.4g}" if budget < least else f"largest is {most:.4g}"
            raise CalibrationError(f"a budget of {budget:.4g} cannot be reached: the {bound}")
        return self._search(budget)

    def _search(self, budget: float) -> Solution:
        low = max(p for p, (b, _, _) in self._known.items() if b <= budget)
        high = min((p for p, (b, _, _) in self._known.items() if b >= budget and p > low), default=1.0)
        for p in (low, high):
            if abs(self._known[p][0] - budget) <= self.tolerance:
                return self._solution(p, 1)
        if high - low < _NARROWEST:
            raise self._refusal(budget, low, high)
        guess: float | None = self._first_guess(budget, low, high)
        for rounds in range(1, _MAX_ROUNDS + 1):
            parameter = guess if guess is not None else self._between(budget, low, high, rounds)
            guess = None
            reached = self._solution(parameter, rounds)
            if abs(reached.measured.budget - budget) <= self.tolerance:
                return reached
            if reached.measured.budget < budget:
                low = parameter
            else:
                high = parameter
            if high - low < _NARROWEST:
                break
        raise self._refusal(budget, low, high)

    def _between(self, budget: float, low: float, high: float, rounds: int) -> float:
        """Regula falsi; every third round bisection, because the budget may jump where many margins are equal."""
        if rounds % 3 == 0:
            return (low + high) / 2
        below, above = self._known[low][0], self._known[high][0]
        fraction = (budget - below) / (above - below) if above > below else 0.5
        return low + (high - low) * min(max(fraction, _SAFEGUARD), 1 - _SAFEGUARD)

    def _first_guess(self, budget: float, low: float, high: float) -> float | None:
        """Estimate from the margins, corrected by their errors at both ends of the bracket."""
        below, above = (self.expect(self._known[p][1]) for p in (low, high))
        measured_below, measured_above = self._known[low][0], self._known[high][0]
        fraction = (budget - measured_below) / (measured_above - measured_below)
        target = below + fraction * (above - below)
        start, end = low, high
        for _ in range(_GUESS_HALVINGS):
            middle = (start + end) / 2
            start, end = (middle, end) if self.expect(self.family.thresholds(middle)) < target else (start, middle)
        guess = (start + end) / 2
        return guess if low < guess < high else None

    def _solution(self, parameter: float, rounds: int) -> Solution:
        if parameter not in self._known:
            thresholds = self.family.thresholds(parameter)
            measured = self.measure(thresholds)
            self._known[parameter] = (measured.budget, thresholds, measured)
        _, thresholds, measured = self._known[parameter]
        return Solution(parameter, thresholds, measured, rounds)

    def _refusal(self, budget: float, low: float, high: float) -> CalibrationError:
        below, above = self._known[low], self._known[high]
        jump = above[0] - below[0]
        samples = below[2].samples
        enough = samples * jump / (2 * self.tolerance)
        return CalibrationError(
            f"no {self.family.name} thresholds come within {self.tolerance:g} of the budget {budget:.4g}: on {samples} "
            f"samples it jumps from {below[0]:.4g} to {above[0]:.4g}, because tokens share their margins",
            f"give about {max(int(enough) + 1, samples + 1)} samples that differ, or request one of those two budgets",
        )
