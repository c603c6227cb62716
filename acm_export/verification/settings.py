"""The thresholds to verify at: the trained ones, and two with clearly different budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry

_SHARES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class ThresholdSetting:
    """Thresholds of each layer, float32 ``[N]``, and a name for reports."""

    name: str
    thresholds: Mapping[str, NDArray[np.float32]]


def choose_settings(
    layers: tuple[LayerEntry, ...], margins: Mapping[str, NDArray[np.float32]]
) -> list[ThresholdSetting]:
    """Pick three settings with different budgets.

    Args:
        layers: ACM layers.
        margins: Margins of each layer at τ = 0, ``[tokens, C - 1]``.

    Returns:
        τ = 0, and the two quantiles of the margins whose shares are farthest from the trained one. If the margins do
        not vary: settings that give every token the same number of learners.
    """
    settings = [uniform("τ = 0", 0.0, layers)]
    gated = [margins[layer.name].ravel() for layer in layers if layer.num_learners > layer.min_learners]
    if not gated:
        return settings
    pooled = np.concatenate(gated)
    pooled = pooled[np.isfinite(pooled)]
    trained = float((pooled > 0).mean()) if pooled.size else 0.5
    targets = sorted(_SHARES, key=lambda share: abs(share - trained))[1:]
    quantiles = [float(np.quantile(pooled, 1 - share)) for share in sorted(targets)] if pooled.size else [0.0, 0.0]
    if quantiles[0] == quantiles[1]:
        deepest = max(layer.num_learners for layer in layers)
        return [*settings, *(same_count(k, layers) for k in sorted({0, deepest}))]
    return [*settings, *(uniform(f"τ = {tau:.3g}", tau, layers) for tau in quantiles)]


def uniform(name: str, tau: float, layers: tuple[LayerEntry, ...]) -> ThresholdSetting:
    """A setting with one threshold for every learner of every layer."""
    return ThresholdSetting(name, {e.name: np.full(e.num_learners, tau, np.float32) for e in layers})


def same_count(k: int, layers: tuple[LayerEntry, ...]) -> ThresholdSetting:
    """A setting in which every token runs k learners, or as close to k as its layer allows."""
    thresholds = {e.name: np.where(np.arange(e.num_learners) < k, -np.inf, np.inf).astype(np.float32) for e in layers}
    return ThresholdSetting(f"k = {k} for every token", thresholds)
