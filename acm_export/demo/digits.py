"""The embedded checkpoints and the images they were trained on (data/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.optional import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
ACM, DENSE = DATA / "digits-acm", DATA / "digits-dense"


def load_test_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 360 test images as model inputs, float32 ``[360, 3, 32, 32]``, and their labels ``[360]``.

    Raises:
        MissingDependencyError: scikit-learn, which contains the images, is not installed.
    """
    images, labels = load_all_images()
    indices = json.loads((DATA / "test_indices.json").read_text())
    return images[indices], labels[indices]


def load_all_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All 1,797 images as model inputs, float32 ``[1797, 3, 32, 32]``, and their labels ``[1797]``.

    Raises:
        MissingDependencyError: scikit-learn, which contains the images, is not installed.
    """
    require("sklearn")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8) / 16
    images = images.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1)
    return ((images - 0.305) / 0.376).astype(np.float32), labels.astype(np.int64)
