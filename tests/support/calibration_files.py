"""A small model, data for it, and a calibration, for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.calibration.calibrate import calibrate
from acm_export.onnx_file.manifest import LayerEntry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.calibration.result import CalibrationResult

LAYERS = (LayerEntry("a", 8, 4, 2, 0, "gelu", 64, 8, 3), LayerEntry("b", 8, 3, 2, 1, "identity", 32, 8, 3))


def write_images(path: Path, samples: int, **arrays: Any) -> Path:
    """Images for the tiny ViT, with labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((samples, 1, 8, 8)).astype(np.float32)
    np.savez(path, **({"pixel_values": images, "labels": rng.integers(0, 5, samples)} | arrays))
    return path


def calibrated(
    model: Path, data: Path, output: Path, budgets: Sequence[float] = (0.5,), **options: Any
) -> CalibrationResult:
    return calibrate(model, data, budgets, output, **({"probe_samples": 16} | options))
