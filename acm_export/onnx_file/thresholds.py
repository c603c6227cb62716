"""Compute thresholds from a setting, and write them into a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting


def setting_thresholds(manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Thresholds of every layer for the manifest's setting, float32 ``[N]``.

    Raises:
        UsageError: The setting has neither a threshold nor a budget.
    """
    setting = manifest.setting
    if setting.budget is None or manifest.calibration is None:
        return {layer.name: thresholds_for(layer, setting) for layer in manifest.layers}
    from_table = manifest.calibration.table.at(setting.budget)
    return {
        layer.name: np.asarray(from_table[layer.name] + bound_of(layer, setting.max_learners), np.float32)
        for layer in manifest.layers
    }


def thresholds_for(layer: LayerEntry, setting: Setting) -> NDArray[np.float32]:
    """Thresholds of one layer for a setting with one τ.

    Args:
        layer: ACM layer.
        setting: Setting with one τ for all learners; learners above ``max_learners`` never run (τ = +inf).

    Returns:
        float32 ``[N]``.

    Raises:
        UsageError: The setting has no single threshold.
    """
    if setting.threshold is None:
        raise UsageError("the file has a separate threshold for each learner", "give --threshold or --trained as well")
    thresholds = np.full(layer.num_learners, setting.threshold, np.float32)
    thresholds[bound_of(layer, setting.max_learners) > 0] = np.inf
    return thresholds


def write_thresholds(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Write the thresholds of the manifest's setting into their initializers, in place."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, values in zip(manifest.layers, setting_thresholds(manifest).values(), strict=True):
        tensors[layer.thresholds].CopyFrom(numpy_helper.from_array(values, layer.thresholds))


def bound_of(layer: LayerEntry, max_learners: int | None) -> NDArray[np.float32]:
    """Values that a bound adds to the thresholds: 0 for learners that may run, +inf beyond; float32 ``[N]``."""
    bound = np.zeros(layer.num_learners, np.float32)
    if max_learners is not None:
        bound[max_learners:] = np.inf
    return bound


def by_layer(layers: Sequence[LayerEntry], flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Split the concatenated thresholds of all layers into ``[N]`` for each layer."""
    ends = np.cumsum([layer.num_learners for layer in layers])
    return {layer.name: part for layer, part in zip(layers, np.split(flat, ends[:-1]), strict=True)}


def check_setting(setting: Setting, layers: tuple[LayerEntry, ...]) -> None:
    """Check that a setting is possible for every layer.

    Args:
        setting: New setting.
        layers: ACM layers of the file.

    Raises:
        UsageError: τ is NaN or out of range for float32, or the bound is below the learners that some layer always
            runs or above the learners of every layer.
    """
    if setting.threshold is not None:
        _check_threshold(setting.threshold)
    if setting.max_learners is None:
        return
    highest = max((layer.min_learners for layer in layers), default=0)
    if setting.max_learners < highest:
        names = [layer.name for layer in layers if layer.min_learners == highest]
        raise UsageError(
            f"--max-learners is {setting.max_learners}, but {names[0]} always runs {highest}",
            f"the smallest bound for this file is {highest}",
        )
    largest = max((layer.num_learners for layer in layers), default=setting.max_learners)
    if setting.max_learners > largest:
        raise UsageError(
            f"--max-learners is {setting.max_learners}, but no layer has more than {largest} learners",
            f"--max-learners {largest} lets every learner run",
        )


def _check_threshold(threshold: float) -> None:
    if math.isnan(threshold):
        raise UsageError("the threshold is NaN, which would turn every learner off", "give a number, inf or -inf")
    with np.errstate(over="ignore", under="ignore"):
        stored = np.float32(threshold)
    if (math.isinf(stored), stored == 0) != (math.isinf(threshold), threshold == 0):
        raise UsageError(
            f"the threshold is {threshold:g}, which float32 stores as {stored:g}", f"give {stored:g} if you mean that"
        )
