"""Building engines with the fakes of tests/engine/conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from click.testing import CliRunner

from acm_export.cli import main
from acm_export.engine.host import Platform

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("8.5.3.1", "10.3.0", "11.4.0.106")
HERE = Platform("10.3.0", "Orin", "sm_87")


def random_images(samples: int) -> Any:
    import torch

    return torch.from_numpy(np.random.default_rng(1).standard_normal((samples, 1, 8, 8)).astype(np.float32))


def build(files: Path, output: Path, *options: str, model: str = "b.onnx", plugin: str = HERE.tensorrt) -> Any:
    arguments = [
        "build-engine",
        str(files / model),
        "-o",
        str(output),
        "--plugin",
        str(files / f"plugin-{plugin}.so"),
        *options,
    ]
    return CliRunner().invoke(main, arguments)
