"""The settings of the budget dial at which a file is observed: scales must fit all budgets that it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry, Manifest

_SHARES = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class DialSetting:
    """One setting of all thresholds.

    Args:
        name: Description for tables.
        thresholds: Thresholds of all layers, concatenated.
    """

    name: str
    thresholds: NDArray[np.float32]


def all_learners(manifest: Manifest) -> DialSetting:
    """The setting at which every learner of every token runs."""
    total = sum(layer.num_learners for layer in manifest.layers)
    return DialSetting("all learners" if total else "dense", np.full(total, -np.inf, np.float32))


def dial_settings(manifest: Manifest, stored: dict[str, NDArray[np.float32]]) -> list[DialSetting]:
    """Settings between all learners and few, without repetition: all learners first.

    Args:
        manifest: Manifest of the file.
        stored: Thresholds stored in the file, by layer.
    """
    settings = [all_learners(manifest)]
    if not manifest.layers:
        return settings
    settings.append(DialSetting("trained thresholds", np.zeros_like(settings[0].thresholds)))
    settings.append(DialSetting("as the file is set", flat_thresholds(stored, manifest.layers)))
    if manifest.calibration is not None:
        table = manifest.calibration.table
        at = {share: table.at(table.clamped(share)) for share in _SHARES}
        settings += [DialSetting(f"β {share:g}", flat_thresholds(t, manifest.layers)) for share, t in at.items()]
    kept: dict[bytes, DialSetting] = {}
    for setting in settings:
        kept.setdefault(setting.thresholds.tobytes(), setting)
    return list(kept.values())


def flat_thresholds(thresholds: Mapping[str, NDArray[np.float32]], layers: Sequence[LayerEntry]) -> NDArray[np.float32]:
    """Thresholds of all layers, concatenated in the order of the manifest; tables and files may have another order."""
    return np.concatenate([thresholds[layer.name] for layer in layers])
