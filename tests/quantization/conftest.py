"""Files that are exported once per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shared_files import shared_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def int8_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``m.onnx``, a wide ViT with ACM layers, ``dense.onnx``, one without, ``data.npz``, and ``c.onnx``,
    ``m.onnx`` calibrated. Read-only.
    """

    def make(folder: Path) -> None:
        from int8_models import export_vit, write_images

        from acm_export.calibration.calibrate import calibrate

        export_vit(folder / "m.onnx")
        export_vit(folder / "dense.onnx", {})
        data = write_images(folder / "data.npz")
        calibrate(folder / "m.onnx", str(data), [0.5, 0.75], folder / "c.onnx", probe_samples=8)

    return shared_folder(tmp_path_factory, "int8-sources", make)
