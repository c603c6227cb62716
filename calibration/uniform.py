"""The solver ``uniform``: one threshold for every learner of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.calibration.margins import merge, quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.calibration.families import ModelMargins


class Uniform:
    """τ at a quantile of the margins of all layers together, clipped to the range of each learner's margins.

    Args:
        observed: Margins of the model.
    """

    name = "uniform"

    def __init__(self, observed: ModelMargins) -> None:
        self._observed = observed
        self._pooled = merge(summary for summaries in observed.summaries for summary in summaries)

    def thresholds(self, share: float) -> NDArray[np.float32]:
        """Thresholds of all layers; ``share`` of all margins lie above them."""
        low, high = self._observed.low, self._observed.high
        if share <= 0:
            return high
        if share >= 1:
            return low
        return np.asarray(np.clip(np.float32(quantile(self._pooled, 1 - share)), low, high))
