"""Datasets as people load them from the Hub, and the settings of a model that reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from user_data import LETTERS

if TYPE_CHECKING:
    from pathlib import Path


datasets = pytest.importorskip("datasets")

PIXELS, SOUND, TOKENS = "pixel_values", "input_values", "input_ids"
SETTINGS = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.25]}
ROWS = 20


def greys(count: int = ROWS) -> list[Image.Image]:
    """Images of ten by ten, all different."""
    values = np.random.default_rng(0).integers(0, 256, (count, 10, 10), np.uint8)
    return [Image.fromarray(value, "L") for value in values]


def pictures(column: str = "image", count: int = ROWS) -> Any:
    """As those of image classification on the Hub: encoded images and the number of a named class."""
    names = ["ant", "bee", "cat", "dog", "elk"]
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {column: greys(count), "label": [i % 5 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def waves(count: int = 3, **settings: Any) -> list[dict[str, Any]]:
    return [
        {"array": np.sin(np.arange(400.0 - 50 * i)).tolist(), "sampling_rate": 16000} | settings for i in range(count)
    ]


def model_folder(folder: Path, settings: dict[str, Any] | None = None) -> Path:
    (folder / "vocab.json").write_text(LETTERS)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS if settings is None else settings))
    return folder
