"""Fixtures of the plugin's tests: the fake pack and driver, and the compiled core."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import build, compile_fake_driver
from plugin_core import Core, Driver
from plugin_harness import Harness
from plugin_launches import Recorder
from plugin_pack import write_fake_pack
from shared_files import shared_folder

from acm_export.plugins.kernels import launch, launch_quantized

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders


def fresh(library: Path) -> Driver:
    """The fake driver of a library, as a discrete GPU of architecture sm_90 that has launched nothing."""
    fake = Driver(library)
    fake.reset()
    return fake


@pytest.fixture(scope="session")
def fake_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "plugin", lambda folder: write_fake_pack(folder / "pack")) / "pack"


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def core_library(fake_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = "acm_core_harness"
    folder = shared_folder(tmp_path_factory, "core", lambda folder: build(target, folder, fake_pack))
    return folder / f"lib{target}.so"


@pytest.fixture(scope="session")
def core(core_library: Path, fake_driver: Path) -> Core:
    return Core(core_library, fake_driver)


@pytest.fixture
def driver(core: Core, fake_driver: Path) -> Driver:
    """The fake driver that ``core`` opens, as a discrete GPU of architecture sm_90."""
    assert core
    return fresh(fake_driver)


@pytest.fixture(scope="session")
def built(headers: TensorRTHeaders, fake_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plugin library and its harness, for one set of TensorRT headers."""
    targets = ("acm_plugin_harness", "acm_gated_learners")

    def make(folder: Path) -> None:
        for target in targets:
            build(target, folder, fake_pack, headers)

    folder = shared_folder(tmp_path_factory, f"trt{headers.version_text}", make)
    return {target: folder / f"lib{target}.so" for target in targets}


@pytest.fixture(scope="session")
def harness(built: dict[str, Path], fake_driver: Path) -> Harness:
    return Harness(built["acm_plugin_harness"], fake_driver)


@pytest.fixture
def gpu(harness: Harness, fake_driver: Path) -> Driver:
    """The fake driver that ``harness`` opens, as a discrete GPU of architecture sm_90; the log is empty."""
    harness.take_log()
    return fresh(fake_driver)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]]:
    log: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]] = []
    for launcher, module, names in (
        (launch, "routing", ("route_one_block", "count_tokens", "place_tokens")),
        (launch, "up", ("up",)),
        (launch, "down", ("down", "down_split")),
        (launch_quantized, "quantize_rows", ("quantize_rows",)),
        (launch_quantized, "up_int8", ("up_int8",)),
        (launch_quantized, "down_int8", ("down_int8", "down_split_int8")),
    ):
        monkeypatch.setattr(launcher, module, SimpleNamespace(**{name: Recorder(name, log) for name in names}))
    return log


@pytest.fixture(scope="session")
def cuda_11_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_driver(tmp_path_factory.mktemp("cuda_11"), "plugin_fake_cuda.cpp", "ACM_FAKE_CUDA_11")


@pytest.fixture(scope="session")
def core_for_cuda_11(core_library: Path, cuda_11_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    """A copy of the library: each copy that is loaded opens the driver once."""
    copy = shutil.copy(core_library, tmp_path_factory.mktemp("core_11") / core_library.name)
    return Core(copy, cuda_11_library)


@pytest.fixture
def cuda_11(core_for_cuda_11: Core, cuda_11_library: Path) -> Driver:
    """The driver of ``core_for_cuda_11``, which encodes no tensor maps."""
    assert core_for_cuda_11
    return fresh(cuda_11_library)
