"""Compile the plugin with zig for one processor, and take the cubins out of the libraries.

zig is one program with Clang, libc++ and the symbols of every glibc; the package ``ziglang`` brings it. It compiles for
both processors on either, and the same sources give the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import PluginError
from acm_export.base.optional import install_command
from acm_export.plugins.tensorrt.build import TARGET, find_cmake, run_cmake
from acm_export.plugins.tensorrt.embed import aligned_cubins
from acm_export.plugins.tensorrt.prebuilt import INDEX, Prebuilt, PrebuiltLibrary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acm_export.plugins.kernels.pack import Pack
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders
    from acm_export.plugins.tensorrt.wheels.platforms import Platform

_TOOLCHAIN = Path(__file__).parents[1] / "cmake" / "zig.cmake"


def find_zig() -> Path:
    """Find zig: that of the package ``ziglang``, else the one on the PATH.

    Raises:
        PluginError: It is not installed.
    """
    package = find_spec("ziglang")
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "zig"
    found = shutil.which("zig")
    if found is None:
        raise PluginError("zig, the cross-compiler, is not installed", install_command("wheels"))
    return Path(found)


def cross_compile(
    platform: Platform, headers: TensorRTHeaders, cuda: Path, pack_folder: Path, build: Path, target: str = TARGET
) -> Path:
    """Compile a library for a processor and a TensorRT.

    Args:
        platform: Processor and glibc.
        headers: Headers of the TensorRT.
        cuda: Folder of the CUDA headers.
        pack_folder: Kernel pack to embed.
        build: Folder to compile in.
        target: Name of the library in CMakeLists.txt: the plugin, or one of the test harness.

    Returns:
        The library.

    Raises:
        PluginError: zig or CMake is missing, or fails.
    """
    options = (
        f"-DCMAKE_TOOLCHAIN_FILE={_TOOLCHAIN}",
        f"-DACM_ZIG={find_zig()}",
        f"-DACM_ZIG_TARGET={platform.target}",
        f"-DACM_HARNESS={'OFF' if target == TARGET else 'ON'}",
    )
    return run_cmake(find_cmake(), build, headers, cuda, pack_folder, options, target)


def write_libraries(
    platform: Platform, pack: Pack, libraries: Mapping[str, Path], folder: Path, versions: Mapping[str, str]
) -> Prebuilt:
    """Write the libraries without their cubins, and index.json.

    Args:
        platform: Processor that they were compiled for.
        pack: Kernel pack that they embed.
        libraries: A compiled library for each series of TensorRT.
        folder: Folder to write, which must exist.
        versions: Version of the headers of each.

    Raises:
        PluginError: A library does not hold the cubins in one piece.
    """
    cubins = aligned_cubins(pack)[1]
    rows = []
    for series, library in libraries.items():
        content, file = library.read_bytes(), f"tensorrt-{series}.zlib"
        offset = find_cubins(content, cubins, library)
        (folder / file).write_bytes(zlib.compress(content[:offset] + content[offset + len(cubins) :], 9))
        digest = hashlib.sha256(content).hexdigest()
        rows.append(PrebuiltLibrary(series, versions[series], file, offset, len(content), digest))
    digest = hashlib.sha256(cubins).hexdigest()
    prebuilt = Prebuilt(folder, platform.machine, tuple(pack.architectures), digest, tuple(rows))
    (folder / INDEX).write_text(prebuilt.index(), encoding="utf-8")
    return prebuilt


def find_cubins(content: bytes, cubins: bytes, library: Path) -> int:
    """Offset of the cubins in a library.

    Raises:
        PluginError: They are not there, or not once.
    """
    offset = content.find(cubins)
    if not cubins or offset < 0 or content.find(cubins, offset + 1) >= 0:
        raise PluginError(f"{library} does not hold the {len(cubins):,} bytes of cubins exactly once")
    return offset
