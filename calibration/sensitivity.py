"""The solver ``sensitivity``: learners run where they change the model's output most per FLOP.

For each layer alone, with all learners running in the others, the divergence from the all-learners output is measured
with learner n left out for the tokens with the smallest margins: a quarter of them, half, three quarters, all; learners
before n run for every token, those after n for none. Differences between neighbouring states are the benefit of learner
n for a quarter of the tokens. Benefits are made to grow with the margin and to fall with n (by isotonic regression,
isotonic.py), which removes noise; where a gate does not know which tokens need a learner, they become flat.

Quarters are then taken in the order of benefit per FLOP. The parameter is the share of that order that runs; within a
quarter the tokens with larger margins come first.

This assumes that the losses of layers, learners and tokens add up. They do so only approximately; calibration measures
the real cost and effect of a table, and compares it with the other solvers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.families import thresholds_for_shares, token_count
from acm_export.calibration.isotonic import ordered_both_ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from acm_export.calibration.families import ModelMargins

QUARTERS = 4


def probe_states(observed: ModelMargins) -> int:
    """Largest number of settings that :func:`measure_benefits` runs."""
    return 1 + sum(QUARTERS * len(summaries) for summaries in observed.summaries)


def measure_benefits(
    observed: ModelMargins, divergence: Callable[[NDArray[np.float32]], float]
) -> tuple[NDArray[np.float64], ...]:
    """Measure how much each learner improves the output.

    Args:
        observed: Margins of the model.
        divergence: Measures a setting of the thresholds of all layers.

    Returns:
        ``[N - m, 4]`` for each layer: the divergence that learner m + 1 + row removes in each quarter of the tokens, by
        margin, smallest first; non-decreasing along rows, non-increasing along columns.
    """
    everything = [np.ones(len(summaries)) for summaries in observed.summaries]
    benefits = []
    for index, summaries in enumerate(observed.summaries):
        measured = np.zeros((len(summaries), QUARTERS + 1))
        for n in range(len(summaries)):
            for left_out in range(QUARTERS + 1):
                shares = np.array([1.0] * n + [1 - left_out / QUARTERS] + [0.0] * (len(summaries) - n - 1))
                setting = [*everything[:index], shares, *everything[index + 1 :]]
                measured[n, left_out] = divergence(thresholds_for_shares(observed, setting))
        benefits.append(ordered_both_ways(np.diff(measured, axis=1)) if len(summaries) else measured[:, 1:])
    return tuple(benefits)


class Sensitivity:
    """Quarters of tokens in the order of benefit per FLOP.

    Args:
        observed: Margins of the model.
        benefits: Result of :func:`measure_benefits`.
    """

    name = "sensitivity"

    def __init__(self, observed: ModelMargins, benefits: tuple[NDArray[np.float64], ...]) -> None:
        self._observed = observed
        self._order = []
        quarters = []
        for index, (layer, summaries, rows) in enumerate(
            zip(observed.layers, observed.summaries, benefits, strict=True)
        ):
            cost = layer.learner_flops * token_count(summaries) / QUARTERS
            quarters += [
                (-benefit / cost, index, n, -quarter, cost)
                for n, row in enumerate(rows.tolist())
                for quarter, benefit in enumerate(row)
            ]
        costs = []
        for _, index, n, _, cost in sorted(quarters):  # ties: earlier learners first, within them larger margins
            self._order.append((index, n))
            costs.append(cost)
        self._ends = np.cumsum(costs) / np.sum(costs)

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers with the first ``share`` of all gated FLOPs in the order."""
        shares = [np.zeros(len(summaries)) for summaries in self._observed.summaries]
        whole = int(np.searchsorted(self._ends, share, side="right")) if share < 1 else len(self._order)
        for index, n in self._order[:whole]:
            shares[index][n] += 1 / QUARTERS
        if whole < len(self._order):
            start = self._ends[whole - 1] if whole else 0.0
            index, n = self._order[whole]
            shares[index][n] += (share - start) / (self._ends[whole] - start) / QUARTERS
        return thresholds_for_shares(self._observed, shares)
