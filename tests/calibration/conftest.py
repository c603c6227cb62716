"""The file and the data that the tests of calibrate share; tests of other things define a folder of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from calibration_files import write_images
from exported_files import images
from tiny_models import tiny_vit

from acm_export.exporter import export

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``m.onnx``, which outputs its counts, and ``d.npz``, 60 images."""
    folder = tmp_path_factory.mktemp("calibration")
    torch.manual_seed(0)
    export(tiny_vit(), images(2), folder / "m.onnx", verify=False, with_counts=True, output_fields=("logits",))
    write_images(folder / "d.npz", 60)
    return folder
