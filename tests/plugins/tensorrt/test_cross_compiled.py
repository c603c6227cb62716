"""Libraries that zig compiles for the wheels: what they need and export, and that they are the same each time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cross_compiled import ARCHITECTURES, BUILT_FOR, compiled, this_machine
from plugin_build import each_header_set, each_tensorrt
from plugin_registry_probe import NAMES
from test_plugin_registry import probe, version_of, ways

from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.tensorrt import prebuilt as joining
from acm_export.plugins.tensorrt.headers import cuda_headers
from acm_export.plugins.tensorrt.prebuilt import content_of, series_of
from acm_export.plugins.tensorrt.wheels.cross_compile import cross_compile, write_libraries
from acm_export.plugins.tensorrt.wheels.platforms import PLATFORMS

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders
    from acm_export.plugins.tensorrt.wheels.platforms import Platform

pytestmark = [pytest.mark.slow, each_header_set()]
each_platform = pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.machine)

NEWEST_GLIBC = (2, 17)
LIBRARIES = {"libc.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
"""Parts of glibc, the only libraries that may be needed."""


def readelf(option: str, library: Path) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf of binutils")
    command = ["readelf", "-W", option, str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@each_platform
def test_it_needs_only_an_old_glibc_and_exports_only_entry_points(
    tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders, platform: Platform
) -> None:
    library = compiled(tmp_path_factory, platform.machine, headers)
    dynamic, symbols = readelf("--dynamic", library), readelf("--dyn-syms", library)
    assert set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)) <= LIBRARIES
    assert "NODELETE" in dynamic
    assert "SYMBOLIC" in dynamic
    versions = re.findall(r"@(\w+?)_([\d.]+)", symbols)
    assert {name for name, _ in versions} == {"GLIBC"}
    assert max(tuple(map(int, number.split("."))) for _, number in versions) <= NEWEST_GLIBC
    rows = [line.split() for line in symbols.splitlines()]
    exported = {row[7] for row in rows if len(row) == 8 and row[4] in {"GLOBAL", "WEAK"} and row[6] != "UND"}
    assert "acm_built_for_tensorrt" in exported
    foreign = {
        name for name in exported if not re.fullmatch(r"get\w*Creators|setLogger\w*|acm_built_for_tensorrt", name)
    }
    assert not foreign
    assert "GNU_UNIQUE" not in symbols
    assert ".debug_info" not in readelf("--sections", library)


@each_platform
def test_a_wheel_gives_back_the_library_that_was_linked(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    headers: TensorRTHeaders,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = compiled(tmp_path_factory, platform.machine, headers)
    pack, series = library.parent / "pack", series_of(headers.version)
    assert series is not None
    prebuilt = write_libraries(platform, read_pack(pack), {series: library}, tmp_path, {series: headers.version_text})
    (row,) = prebuilt.libraries
    monkeypatch.setattr(joining, "default_folder", lambda: pack)
    assert content_of(prebuilt, row) == library.read_bytes()
    assert prebuilt.architectures == ARCHITECTURES


def test_the_same_sources_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, headers: TensorRTHeaders
) -> None:
    platform = PLATFORMS[-1]
    first = compiled(tmp_path_factory, platform.machine, headers)
    second = cross_compile(platform, headers, cuda_headers(), first.parent / "pack", tmp_path / "elsewhere")
    assert second.read_bytes() == first.read_bytes()


def test_the_library_for_this_processor_loads(
    tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders
) -> None:
    library = compiled(tmp_path_factory, this_machine(), headers)
    command = [sys.executable, "-c", BUILT_FOR, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (headers.version_text, "")


@each_tensorrt()
def test_a_real_registry_lists_it_once(
    tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders, python: str
) -> None:
    if series_of(version_of(python)) != series_of(headers.version):
        pytest.skip(f"the library is for TensorRT {headers.version_text}, the registry of {version_of(python)}")
    library = compiled(tmp_path_factory, this_machine(), headers)
    for how in ways(python):
        report, _ = probe(python, library, how)
        assert report["counts"] == [[1] * len(NAMES)] * len(report["counts"]), how
        assert report.get("handle", True)
        for name in NAMES:
            for step, made in report[name]["plugins"].items():
                assert made is not step.startswith("bad"), (name, step)
