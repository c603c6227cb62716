"""Settings of an image processor from the ``config.json`` of a timm model."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.data.processor_files import SETTINGS, read_settings

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "config.json"
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP = 0.875
"""Share of the resized image that timm keeps where a model names none."""


def timm_settings(config: dict[str, Any]) -> dict[str, Any] | None:
    """Convert ``pretrained_cfg`` to the form of ``preprocessor_config.json``; None if the config has none.

    Args:
        config: Content of ``config.json``.

    Raises:
        UsageError: A value is missing or unknown.
    """
    given = config.get("pretrained_cfg")
    if not isinstance(given, dict):
        return None
    try:
        return _converted(given)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"pretrained_cfg does not describe how images are processed: {error!r}",
            f"write {SETTINGS} beside the model, as for a model of transformers",
        ) from error


def _converted(given: dict[str, Any]) -> dict[str, Any]:
    _, height, width = map(int, given["input_size"])
    share = float(given.get("crop_pct") or _CROP)
    resized = [math.floor(side / share) for side in (height, width)]
    mode = given.get("crop_mode") or "center"
    if mode not in ("center", "squash") or (mode == "center" and resized[0] != resized[1]):
        raise ValueError(f"crop_mode {mode} of {height} x {width}")
    return {
        "size": {"shortest_edge": resized[0]} if mode == "center" else {"height": resized[0], "width": resized[1]},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "resample": _RESAMPLE[given.get("interpolation") or "bicubic"],
        "image_mean": list(given.get("mean") or _IMAGENET_MEAN),
        "image_std": list(given.get("std") or _IMAGENET_STD),
    }


def write_timm_settings(model_folder: Path, folder: Path) -> None:
    """Write ``preprocessor_config.json`` for a timm model; nothing is written for others.

    Args:
        model_folder: Folder of the model.
        folder: Folder to write into.
    """
    settings = timm_settings(read_settings(model_folder / CONFIG))
    if settings is not None:
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
