"""The plugin libraries that a platform wheel brings, one for each TensorRT.

A wheel holds the compiled kernels once, as the kernel pack, and each library without them: ``libraries/index.json``,
and for each library a file with the bytes before and after the cubins (compressed, so that no tool takes it for a
broken library). :func:`join` puts a library together in the user's cache, byte for byte as it was linked.
"""

from __future__ import annotations

import hashlib
import json
import platform as machine
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from acm_export.base.errors import KernelError, PluginError
from acm_export.base.files import move_into_place, sha256_of, staging_folder
from acm_export.plugins.kernels.pack import default_folder, read_pack
from acm_export.plugins.tensorrt.build import LIBRARY
from acm_export.plugins.tensorrt.cache import cache_folder, staging_in_cache
from acm_export.plugins.tensorrt.embed import aligned_cubins

SCHEMA = 1
INDEX = "index.json"
SERIES = ("8.5", "8.6", "10", "11")
"""Releases of TensorRT that share a library: minor versions of 8, major versions from 10 on."""

OLDEST = {"10": 3}
"""Oldest minor version of a major version that a library runs in; 0 if it is not listed."""

_REINSTALL = "install the wheel again: pip install --force-reinstall --no-deps acm_export-VERSION-PLATFORM.whl"


@dataclass(frozen=True)
class PrebuiltLibrary:
    """One library of a wheel, without the cubins.

    Args:
        tensorrt: One of :data:`SERIES`.
        headers: Version of the TensorRT headers that it was compiled with, as in ``10.3.0``.
        file: Name of the file with all bytes but the cubins, compressed by zlib.
        offset: Offset of the cubins in the whole library.
        size: Size of the whole library in bytes.
        sha256: SHA-256 of the whole library in hex.
    """

    tensorrt: str
    headers: str
    file: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Prebuilt:
    """All libraries of a wheel.

    Args:
        folder: Folder of the files.
        platform: Processor, as in ``aarch64``.
        architectures: GPU architectures that the libraries have kernels for.
        cubins_sha256: SHA-256 of the cubins as they are in the libraries.
        libraries: The libraries, oldest TensorRT first.
    """

    folder: Path
    platform: str
    architectures: tuple[str, ...]
    cubins_sha256: str
    libraries: tuple[PrebuiltLibrary, ...]

    def library(self, tensorrt: str) -> PrebuiltLibrary | None:
        """The library for one of :data:`SERIES`, if there is one."""
        return next((library for library in self.libraries if library.tensorrt == tensorrt), None)

    def index(self) -> str:
        """The content of index.json."""
        fields = {name: value for name, value in asdict(self).items() if name != "folder"}
        return json.dumps({"schema": SCHEMA, **fields}, indent=1) + "\n"


def libraries_folder() -> Path:
    """Folder of the libraries in the installed package; a checkout and the pure wheel do not have it."""
    return Path(__file__).parent / "libraries"


def read_prebuilt(folder: Path | None = None) -> Prebuilt | None:
    """Read which libraries the installed package brings.

    Args:
        folder: Folder of the libraries; by default that of the package.

    Returns:
        The libraries; None if the package has none.

    Raises:
        PluginError: The index is damaged, or the libraries are for another processor.
    """
    folder = folder or libraries_folder()
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["schema"] != SCHEMA:
            raise PluginError(f"{folder / INDEX} has schema {index['schema']}, expected {SCHEMA}", _REINSTALL)
        found = Prebuilt(
            folder,
            index["platform"],
            tuple(index["architectures"]),
            index["cubins_sha256"],
            tuple(PrebuiltLibrary(**row) for row in index["libraries"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PluginError(f"{folder / INDEX} cannot be read: {error}", _REINSTALL) from error
    if found.platform != machine.machine():
        raise PluginError(
            f"the plugin libraries in {folder} are for {found.platform}, this machine is {machine.machine()}",
            f"install the wheel for {machine.machine()}",
        )
    return found


def series_of(version: tuple[int, ...]) -> str | None:
    """The entry of :data:`SERIES` whose library runs in a TensorRT, or None.

    Args:
        version: The leading numbers of a version; the major version alone is enough from 10 on.
    """
    major, minor = ".".join(map(str, version[:1])), ".".join(map(str, version[:2]))
    if minor in SERIES:
        return minor
    if major in SERIES and (len(version) == 1 or version[1] >= OLDEST.get(major, 0)):
        return major
    return None


def join(prebuilt: Prebuilt, library: PrebuiltLibrary, *, pack: Path | None = None) -> Path:
    """Put a library together in the user's cache, or find it there.

    Args:
        prebuilt: The libraries of the wheel.
        library: One of them.
        pack: Folder of the kernel pack; by default that of the package.

    Returns:
        Path of the library. Its content has the size and the SHA-256 of the index.

    Raises:
        PluginError: The kernel pack or a file of the wheel is missing, or is not the one that belongs to the library.
        OutputError: The cache cannot be written; nothing is left there.
    """
    path = cache_folder(library.sha256) / LIBRARY
    if path.is_file() and path.stat().st_size == library.size and sha256_of(path) == library.sha256:
        return path
    content = content_of(prebuilt, library, pack=pack)
    with staging_in_cache(path) as staging:
        (staging / LIBRARY).write_bytes(content)
        move_into_place(staging / LIBRARY, path)
    return path


def copy_prebuilt(version: tuple[int, ...], output: Path) -> bool:
    """Write the prebuilt library for a TensorRT, whole or not at all.

    Args:
        version: Version of the TensorRT that will load it, major and minor.
        output: File to write.

    Returns:
        Whether there is such a library; if not, nothing is written.

    Raises:
        PluginError: There is one, and it cannot be put together.
        OutputError: The output or the cache cannot be written.
    """
    prebuilt, series = read_prebuilt(), series_of(version)
    library = None if prebuilt is None or series is None else prebuilt.library(series)
    if prebuilt is None or library is None:
        return False
    joined = join(prebuilt, library)
    with staging_folder(output) as staging:
        shutil.copyfile(joined, staging / LIBRARY)
        move_into_place(staging / LIBRARY, output)
    return True


def content_of(prebuilt: Prebuilt, library: PrebuiltLibrary, *, pack: Path | None = None) -> bytes:
    """All bytes of a library, with the size and the SHA-256 of the index.

    Args:
        prebuilt: The libraries of the wheel.
        library: One of them.
        pack: Folder of the kernel pack; by default that of the package.

    Raises:
        PluginError: The kernel pack or a file of the wheel is missing, or is not the one that belongs to the library.
    """
    pack = pack or default_folder()
    try:
        cubins = aligned_cubins(read_pack(pack))[1]
    except KernelError as error:
        raise PluginError(f"the prebuilt plugin needs the kernel pack of its wheel: {error}", _REINSTALL) from error
    digest = hashlib.sha256(cubins).hexdigest()
    if digest != prebuilt.cubins_sha256:
        raise PluginError(
            f"the kernel pack in {pack} is not the one of the prebuilt plugin: its cubins have the SHA-256 "
            f"{digest[:12]}, expected {prebuilt.cubins_sha256[:12]}",
            f"{_REINSTALL}; or compile a plugin with this pack: acm-export build-plugin",
        )
    file = prebuilt.folder / library.file
    try:
        rest = zlib.decompress(file.read_bytes())
    except (OSError, zlib.error) as error:
        raise PluginError(f"{file} cannot be read: {error}", _REINSTALL) from error
    content = rest[: library.offset] + cubins + rest[library.offset :]
    if len(content) != library.size or hashlib.sha256(content).hexdigest() != library.sha256:
        raise PluginError(f"{file} is damaged: with the kernels it does not give the library of {INDEX}", _REINSTALL)
    return content
