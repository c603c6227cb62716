"""The solver ``same count``: every token runs the same number of learners, regardless of the gates.

Between two whole counts, the tokens with the larger margins run one learner more, the same share in every layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.families import thresholds_for_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.calibration.families import ModelMargins


class SameCount:
    """k learners for every token of every layer, or as close to it as ``min_learners`` and N of a layer allow.

    Args:
        observed: Margins of the model.
    """

    name = "same count"

    def __init__(self, observed: ModelMargins) -> None:
        self._observed = observed
        self._least = min(layer.min_learners for layer in observed.layers)
        self._most = max(layer.num_learners for layer in observed.layers)

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers for k = ``share`` of the way from the least count to N."""
        count = self._least + share * (self._most - self._least)
        shares = [
            np.clip(count - np.arange(layer.min_learners, layer.num_learners), 0.0, 1.0)
            for layer in self._observed.layers
        ]
        return thresholds_for_shares(self._observed, shares)

    def whole_counts(self) -> list[float]:
        """The parameters at which every token runs the same whole count."""
        steps = self._most - self._least
        return [step / steps for step in range(steps + 1)]
