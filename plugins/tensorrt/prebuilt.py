"""The plugin libraries that a platform wheel brings, one for each TensorRT.

A wheel holds the compiled kernels once, as the kernel pack, and each library without them: ``libraries/index.json``,
and for each library a file with the bytes before and after the cubins (compressed, so that no tool takes it for a
broken library). :func:`join` puts a library together in the user's cache, byte for byte as it was linked.
"""

from __future__ import annotations

import hashlib
import json
import platform as machine
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from acm_export.base.errors import KernelError, PluginError
from acm_export.base.files import move_into_place, sha256_of
from acm_export.base.json_fields import LIST, POSITIVE, TEXT, WHOLE, BrokenFieldError, Kind, checked
from acm_export.plugins.kernels.pack import default_folder, read_pack
from acm_export.plugins.tensorrt.build import LIBRARY
from acm_export.plugins.tensorrt.cache import cache_folder, staging_in_cache
from acm_export.plugins.tensorrt.embed import aligned_cubins
from acm_export.plugins.tensorrt.support import supported

SCHEMA = 1
INDEX = "index.json"
SERIES = ("8.5", "8.6", "10", "11")
"""Releases of TensorRT that share a library: minor versions of 8, major versions from 10 on."""

_TEXTS = Kind("a list of texts", lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v))
_SHA256 = Kind("a SHA-256 in hex", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None)
_FILE_NAME = Kind("the name of a file, without a folder", lambda v: isinstance(v, str) and _is_file_name(v))
_SERIES = Kind(f"one of {', '.join(SERIES)}", lambda v: isinstance(v, str) and v in SERIES)
_INDEX = {
    "schema": Kind(str(SCHEMA), lambda v: v == SCHEMA),
    "platform": TEXT,
    "architectures": _TEXTS,
    "cubins_sha256": _SHA256,
    "libraries": LIST,
}
_LIBRARY = {
    "tensorrt": _SERIES,
    "headers": TEXT,
    "file": _FILE_NAME,
    "offset": WHOLE,
    "size": POSITIVE,
    "sha256": _SHA256,
}
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


def read_prebuilt() -> Prebuilt | None:
    """Read which libraries the installed package brings.

    Returns:
        The libraries; None if the package has none.

    Raises:
        PluginError: The index is damaged, or the libraries are for another processor.
    """
    folder = libraries_folder()
    try:
        index = checked(json.loads((folder / INDEX).read_text(encoding="utf-8")), _INDEX, "")
        rows = [checked(row, _LIBRARY, f"libraries[{number}].") for number, row in enumerate(index["libraries"])]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BrokenFieldError) as error:
        raise PluginError(f"{folder / INDEX} cannot be read: {error}", _REINSTALL) from error
    libraries = tuple(PrebuiltLibrary(**row) for row in rows)
    found = Prebuilt(folder, index["platform"], tuple(index["architectures"]), index["cubins_sha256"], libraries)
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
    if major in SERIES and (len(version) == 1 or supported(version)):
        return major
    return None


def join(prebuilt: Prebuilt, library: PrebuiltLibrary) -> Path:
    """Put a library together in the user's cache, or find it there.

    Args:
        prebuilt: The libraries of the wheel.
        library: One of them.

    Returns:
        Path of the library. Its content has the size and the SHA-256 of the index.

    Raises:
        PluginError: The kernel pack or a file of the wheel is missing, or is not the one that belongs to the library.
        OutputError: The cache cannot be written; nothing is left there.
    """
    path = cache_folder(library.sha256) / LIBRARY
    if path.is_file() and path.stat().st_size == library.size and sha256_of(path) == library.sha256:
        return path
    content = content_of(prebuilt, library)
    with staging_in_cache(path) as staging:
        (staging / LIBRARY).write_bytes(content)
        move_into_place(staging / LIBRARY, path)
    return path


def content_for(version: tuple[int, ...]) -> bytes | None:
    """All bytes of the prebuilt library for a TensorRT; None if the installed package has none for it.

    Args:
        version: Version of the TensorRT that will load it, major and minor.

    Raises:
        PluginError: There is one, and it cannot be put together.
    """
    prebuilt, series = read_prebuilt(), series_of(version)
    library = None if prebuilt is None or series is None else prebuilt.library(series)
    return None if prebuilt is None or library is None else content_of(prebuilt, library)


def content_of(prebuilt: Prebuilt, library: PrebuiltLibrary) -> bytes:
    """All bytes of a library, with the size and the SHA-256 of the index.

    Args:
        prebuilt: The libraries of the wheel.
        library: One of them.

    Raises:
        PluginError: The kernel pack or a file of the wheel is missing, or is not the one that belongs to the library.
    """
    pack = default_folder()
    try:
        cubins = aligned_cubins(read_pack(pack))[1]
    except KernelError as error:
        raise PluginError(f"the prebuilt plugin needs the kernel pack of its wheel: {error}", _REINSTALL) from error
    digest = hashlib.sha256(cubins).hexdigest()
    if digest != prebuilt.cubins_sha256:
        raise PluginError(
            f"the kernel pack in {pack} is not the one of the prebuilt plugin: its cubins have the SHA-256 "
            f"{digest[:12]}, expected {prebuilt.cubins_sha256[:12]}",
            f"{_REINSTALL}; or compile a plugin with this pack: acm-export build-plugin, and give it with --plugin",
        )
    file = prebuilt.folder / library.file
    try:
        decompressor = zlib.decompressobj()
        rest = decompressor.decompress(file.read_bytes(), library.size)
    except (OSError, zlib.error) as error:
        raise PluginError(f"{file} cannot be read: {error}", _REINSTALL) from error
    content = rest[: library.offset] + cubins + rest[library.offset :]
    if not decompressor.eof or len(content) != library.size or hashlib.sha256(content).hexdigest() != library.sha256:
        raise PluginError(f"{file} is damaged: with the kernels it does not give the library of {INDEX}", _REINSTALL)
    return content


def _is_file_name(text: str) -> bool:
    return text not in {"", ".."} and PurePosixPath(text).name == text and "\0" not in text
