"""``plugin-path``: the prebuilt plugin library for a TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import PluginError, UsageError
from acm_export.machine.tensorrt import query_system_tensorrt, query_tensorrt
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.prebuilt import SERIES, join, read_prebuilt, series_of
from acm_export.plugins.tensorrt.support import OLDEST_10

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject

_CHOOSE = "choose one of " + ", ".join(SERIES) + ", as in: acm-export plugin-path --tensorrt "
_COMPILE = "compile one with the headers of your TensorRT: acm-export build-plugin"


@dataclass(frozen=True)
class PrebuiltPlugin:
    """Result of :func:`plugin_path`; works wherever Python takes a path.

    Args:
        library: Path of the library.
        tensorrt: TensorRT that it is for: ``8.5``, ``8.6``, ``10`` or ``11``.
        headers: Version of the TensorRT headers that it was compiled with.
        platform: Processor that it is for, as in ``aarch64``.
        architectures: GPU architectures that it has kernels for.
        size: Size in bytes.
        sha256: SHA-256 in hex.
    """

    library: Path
    tensorrt: str
    headers: str
    platform: str
    architectures: tuple[str, ...]
    size: int
    sha256: str

    def __fspath__(self) -> str:
        return str(self.library)

    def to_json(self) -> JsonObject:
        """The result for ``--json``."""
        return {
            "library": str(self.library),
            "bytes": self.size,
            "sha256": self.sha256,
            "tensorrt": {"series": self.tensorrt, "headers": self.headers},
            "platform": self.platform,
            "architectures": list(self.architectures),
        }


def plugin_path(tensorrt: str | None = None) -> PrebuiltPlugin:
    """Find the prebuilt plugin library for a TensorRT. Nothing is compiled.

    The first call puts the library together in the user's cache; later calls check its size and SHA-256.

    Args:
        tensorrt: Version of the TensorRT that will load it, as in ``10``, ``10.3`` or ``8.6``; by default the installed
            one: that of Python, else the system's ``libnvinfer.so``.

    Raises:
        UsageError: ``tensorrt`` is not a version that the plugin supports.
        PluginError: The installed acm-export has no library for it, no TensorRT was found, or the kernel pack does not
            match the library.
        OutputError: The cache cannot be written.
    """
    series = None if tensorrt is None else _requested(tensorrt)
    prebuilt = read_prebuilt()
    if prebuilt is None:
        raise PluginError(
            "this installation has no prebuilt plugin libraries: a checkout and the wheel py3-none-any have none",
            f"install the wheel for this platform (make wheels builds it), or {_COMPILE}",
        )
    series = series or _installed()
    library = prebuilt.library(series)
    if library is None:
        held = ", ".join(library.tensorrt for library in prebuilt.libraries)
        raise PluginError(f"no prebuilt plugin library for TensorRT {series}, only for {held}", _COMPILE)
    path = join(prebuilt, library)
    return PrebuiltPlugin(
        path, series, library.headers, prebuilt.platform, prebuilt.architectures, library.size, library.sha256
    )


def _requested(version: str) -> str:
    found = numbers(version)
    series = series_of(found)
    if series is None or ".".join(map(str, found)) != version:
        raise UsageError(f"--tensorrt is {version!r}; {_supported()}", f"{_CHOOSE}10")
    return series


def _installed() -> str:
    """The series of the installed TensorRT."""
    found = query_tensorrt()
    if found.version is not None:
        return _series(numbers(found.version), f"Python's {found.module}")
    system = query_system_tensorrt()
    if len(system.versions) == 1:
        return _series(system.versions[0], "libnvinfer.so")
    if system.versions:
        several = " and ".join(".".join(map(str, version)) for version in system.versions)
        raise PluginError(f"TensorRT {several} are installed", f"{_CHOOSE}{system.versions[0][0]}")
    why = found.broken or system.broken
    raise PluginError(
        "no TensorRT found, neither as a Python package nor as libnvinfer.so" + (f": {why}" if why else ""),
        f"{_CHOOSE}10",
    )


def _series(version: tuple[int, ...], where: str) -> str:
    series = series_of(version[:2])
    if series is None:
        raise PluginError(f"{where} is TensorRT {'.'.join(map(str, version))}; {_supported()}", _COMPILE)
    return series


def _supported() -> str:
    oldest = {str(OLDEST_10[0]): ".".join(map(str, OLDEST_10))}
    names = [f"{name} ({oldest[name]} or later)" if name in oldest else name for name in SERIES]
    return f"there are prebuilt libraries for {', '.join(names)}"
