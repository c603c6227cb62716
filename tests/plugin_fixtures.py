"""Fixtures of the plugin's tests: the stand-in pack and driver, and the compiled core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from plugin_build import build, compile_stand_in_driver
from plugin_core import Core, Driver
from plugin_pack import write_stand_in_pack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def stand_in_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin") / "pack"
    write_stand_in_pack(folder)
    return folder


@pytest.fixture(scope="session")
def stand_in_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_stand_in_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def core(stand_in_pack: Path, stand_in_driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    library = build("acm_core_harness", tmp_path_factory.mktemp("core"), stand_in_pack)
    return Core(library, stand_in_driver)


@pytest.fixture
def driver(core: Core, stand_in_driver: Path) -> Driver:
    """The stand-in driver that ``core`` opens, as a discrete GPU of architecture sm_90."""
    assert core
    stand_in = Driver(stand_in_driver)
    stand_in.reset()
    return stand_in
