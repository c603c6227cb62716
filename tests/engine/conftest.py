"""Fakes of TensorRT and of the CUDA driver, and files to build engines from, for the tests of the engine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from calibration_files import calibrated, write_images
from engine_builds import HERE, VERSIONS, random_images
from engine_fake_tensorrt import fake
from plugin_build import compile_fake_driver, compile_fake_plugin
from tiny_models import tiny_vit

from acm_export.engine import host
from acm_export.engine.host import Platform
from acm_export.exporter import export
from acm_export.runtimes import cuda_driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_driver(tmp_path_factory.mktemp("driver"), "engine_fake_cuda.cpp")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, calibrated with a budget input, a dense one, and data."""
    folder = tmp_path_factory.mktemp("files")
    export(tiny_vit(), {"pixel_values": random_images(2)}, folder / "m.onnx", verify=False)
    export(tiny_vit({}), {"pixel_values": random_images(2)}, folder / "dense.onnx", verify=False)
    write_images(folder / "d.npz", 32)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), budget_input=True)
    for version in VERSIONS:
        compile_fake_plugin(folder, version)
    return folder


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch, library: Path) -> Callable[..., Any]:
    """Make this machine appear to have TensorRT and a GPU."""

    def put(version: str = HERE.tensorrt, **options: Any) -> Any:
        tensorrt, _ = fake(version, driver=library, **options)
        platform = Platform(version, HERE.gpu, HERE.arch)
        monkeypatch.setattr(host, "find_platform", lambda _: platform)
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
        monkeypatch.setattr(cuda_driver, "LIBRARY", str(library))
        return tensorrt

    return put
