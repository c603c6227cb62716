"""Find the headers of TensorRT and of the CUDA runtime, and the TensorRT version of the headers."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.support import OLDEST

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK, _VERSION, _CUDA_MARK = "NvInferRuntime.h", "NvInferVersion.h", "cuda_runtime_api.h"
_TENSORRT_FOLDERS = ("/usr/local/tensorrt", "/usr/local/TensorRT", "/opt/tensorrt")
_CUDA_FOLDER = Path("/usr/local/cuda")


@dataclass(frozen=True)
class TensorRTHeaders:
    """Headers of one TensorRT.

    Args:
        folder: Folder with ``NvInferRuntime.h``.
        version: Major, minor and patch version.
    """

    folder: Path
    version: tuple[int, int, int]

    @property
    def version_text(self) -> str:
        """The version as in ``10.3.0``."""
        return ".".join(map(str, self.version))

    @property
    def interface(self) -> str:
        """Plugin interface that the library is compiled for."""
        return "IPluginV3" if self.version[0] >= 10 else "IPluginV2DynamicExt"


def tensorrt_headers(root: Path | None = None) -> TensorRTHeaders:
    """Find the headers of TensorRT.

    Args:
        root: Folder of TensorRT, or its ``include``; by default ``TENSORRT_ROOT``, then where NVIDIA's packages and
            containers install them.

    Raises:
        PluginError: The headers are not found (the message lists the folders), too old or unreadable.
    """
    folders = _with_include(root) if root else list(_usual_tensorrt_folders())
    folder = next((folder for folder in folders if (folder / _MARK).is_file()), None)
    if folder is None:
        raise PluginError(
            f"no TensorRT headers ({_MARK}) in {_listed(folders)}",
            "install them (apt install libnvinfer-headers-dev, part of JetPack), unpack NVIDIA's TensorRT archive or "
            "the include folder of github.com/NVIDIA/TensorRT at your TensorRT's tag, and name it with --tensorrt-root",
        )
    version = _version(folder / _VERSION)
    if version[:2] < OLDEST:
        raise PluginError(
            f"the headers in {folder} are for TensorRT {'.'.join(map(str, version))}; "
            f"{'.'.join(map(str, OLDEST))} is the oldest supported",
            "name a newer TensorRT with --tensorrt-root",
        )
    return TensorRTHeaders(folder, version)


def cuda_headers(root: Path | None = None) -> Path:
    """Find the folder of ``cuda_runtime_api.h``, which TensorRT's headers include.

    Args:
        root: Folder of a CUDA toolkit, or its ``include``; by default ``CUDA_HOME``, then the usual places.

    Raises:
        PluginError: The headers are not found; the message lists the folders that were searched.
    """
    folders = _with_include(root) if root else list(_usual_cuda_folders())
    folder = next((folder for folder in folders if (folder / _CUDA_MARK).is_file()), None)
    if folder is None:
        raise PluginError(
            f"no CUDA headers ({_CUDA_MARK}) in {_listed(folders)}",
            "install them (apt install cuda-cudart-dev-<version>, part of JetPack and of NVIDIA's containers) or name "
            "a CUDA toolkit with --cuda-root; no CUDA compiler is needed",
        )
    return folder


def _usual_tensorrt_folders() -> Iterator[Path]:
    named = os.environ.get("TENSORRT_ROOT", "").split(os.pathsep)[0]
    if named:
        yield from _with_include(Path(named))
    yield Path(f"/usr/include/{platform.machine()}-linux-gnu")
    yield Path("/usr/include")
    for folder in _TENSORRT_FOLDERS:
        yield Path(folder) / "include"


def _usual_cuda_folders() -> Iterator[Path]:
    named = os.environ.get("CUDA_HOME")
    for root in (Path(named), _CUDA_FOLDER) if named else (_CUDA_FOLDER,):
        yield from _with_include(root)
    for root in sorted(_CUDA_FOLDER.parent.glob("cuda-*"), reverse=True):
        yield from _with_include(root)
    yield Path("/usr/include")


def _with_include(root: Path) -> list[Path]:
    targets = sorted(root.glob("targets/*/include"))
    return [root / "include", *targets, root]


def _version(path: Path) -> tuple[int, int, int]:
    """Read the version, following names that are defined as other names (as in TensorRT 11)."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise PluginError(f"cannot read the TensorRT version in {path}: {error.strerror}") from error
    defined: dict[str, str] = dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", text, re.MULTILINE))
    numbers = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        value = defined.get(f"NV_TENSORRT_{part}", "")
        value = defined.get(value, value)
        if not value.isdigit():
            raise PluginError(f"{path} defines no TensorRT version: NV_TENSORRT_{part} is {value!r}")
        numbers.append(int(value))
    return numbers[0], numbers[1], numbers[2]


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders))
