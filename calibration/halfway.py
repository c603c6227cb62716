"""Half-way between two families: each learner runs for the mean of the two shares of tokens.

A hedge. ``sensitivity`` looks at one layer at a time and is best where much is left out; one threshold for all layers
is what gates that were trained end to end expect, and near the budget of their training it is hard to beat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.families import thresholds_for_shares
from acm_export.calibration.margins import share_above
from acm_export.onnx_file.thresholds import by_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.calibration.families import Observed, ThresholdFamily


class Halfway:
    """The mean of two families at the same parameter.

    Args:
        observed: The margins.
        first: A family.
        second: Another.
    """

    def __init__(self, observed: Observed, first: ThresholdFamily, second: ThresholdFamily) -> None:
        self.name = f"{first.name} and {second.name}"
        self._observed, self._families = observed, (first, second)

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers."""
        first, second = (_shares(self._observed, family.thresholds(share)) for family in self._families)
        return thresholds_for_shares(self._observed, [(a + b) / 2 for a, b in zip(first, second, strict=True)])


def _shares(observed: Observed, thresholds: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """For each layer the share of tokens that run each gated learner, as far as margins tell; never increasing."""
    parts = by_layer(observed.layers, thresholds)
    return [
        np.minimum.accumulate(
            [share_above(m, t) for m, t in zip(summaries, parts[e.name][e.min_learners :].tolist(), strict=True)]
        )
        if summaries
        else np.empty(0)
        for e, summaries in zip(observed.layers, observed.summaries, strict=True)
    ]
