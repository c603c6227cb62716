"""A blend of two families: each learner runs for the mean of the two shares of tokens.

``sensitivity`` probes one layer at a time and is best at small budgets; one threshold for all layers is what gates
trained end to end expect, and near the budget of their training it is hard to beat. The blend hedges between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.families import thresholds_for_shares
from acm_export.calibration.margins import share_above
from acm_export.onnx_file.thresholds import by_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.calibration.families import ModelMargins, ThresholdFamily


class Blend:
    """Mean of two families at the same parameter.

    Args:
        observed: Margins of the model.
        first: One family.
        second: The other family.
    """

    def __init__(self, observed: ModelMargins, first: ThresholdFamily, second: ThresholdFamily) -> None:
        self.name = f"{first.name} and {second.name}"
        self._observed, self._families = observed, (first, second)

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers."""
        first, second = (_shares(self._observed, family.thresholds(share)) for family in self._families)
        return thresholds_for_shares(self._observed, [(a + b) / 2 for a, b in zip(first, second, strict=True)])


def _shares(observed: ModelMargins, thresholds: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Share of tokens that run each gated learner of each layer, by their margins; never increasing."""
    parts = by_layer(observed.layers, thresholds)
    return [
        np.minimum.accumulate(
            [share_above(m, t) for m, t in zip(summaries, parts[e.name][e.min_learners :].tolist(), strict=True)]
        )
        if summaries
        else np.empty(0)
        for e, summaries in zip(observed.layers, observed.summaries, strict=True)
    ]
