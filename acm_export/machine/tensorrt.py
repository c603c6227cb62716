"""The TensorRT that Python can import."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from acm_export.machine.processes import ProbeError, probe
from acm_export.machine.versions import installed

MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
"""Import names; the one with a builder comes first."""

SYSTEM_MAJORS = (11, 10, 8)
"""Major versions whose library is searched on the system."""

JETPACKS = {
    (8, 5): "5.1",
    (8, 6): "6.0",
    (10, 3): "6.1 and 6.2",
    (10, 13): "7.0 and 7.1",
    (10, 16): "7.2 and later",
    (11, 4): "7.2 and later",
}
"""JetPack releases by the TensorRT that they contain, major and minor."""


@dataclass(frozen=True)
class TensorRT:
    """The TensorRT of this Python, or why it cannot be imported.

    Args:
        module: Import name; None if TensorRT is not installed.
        version: The module's ``__version__``; None if it cannot be imported.
        builder: Whether it can parse ONNX and build engines.
        broken: Why it cannot be imported.
        distribution: Name and version of the installed package; None without package metadata.
    """

    module: str | None
    version: str | None = None
    builder: bool = False
    broken: str | None = None
    distribution: tuple[str, str] | None = None


def query_tensorrt() -> TensorRT:
    """Import the installed TensorRT in another process."""
    module = next((name for name in MODULES if find_spec(name)), None)
    if module is None:
        return TensorRT(None)
    stem = module.removesuffix("_bindings").replace("_", "-")
    distribution = installed(stem, *(f"{stem}-cu{major}{tail}" for major in (13, 12, 11) for tail in ("", "-bindings")))
    try:
        output = probe("tensorrt", module).value
    except ProbeError as error:
        return TensorRT(module, broken=str(error), distribution=distribution)
    return TensorRT(module, output["version"], output["builder"], distribution=distribution)


@dataclass(frozen=True)
class SystemTensorRT:
    """The TensorRT libraries that programs such as trtexec load.

    Args:
        versions: Their versions, newest first.
        broken: Why a library that is there cannot be loaded.
    """

    versions: tuple[tuple[int, ...], ...]
    broken: str | None = None


def query_system_tensorrt() -> SystemTensorRT:
    """Load the system's ``libnvinfer.so`` in another process, and query its version."""
    try:
        output = probe("nvinfer", *map(str, SYSTEM_MAJORS)).value
    except ProbeError as error:
        return SystemTensorRT((), str(error))
    return SystemTensorRT(tuple(map(tuple, output["versions"])), next(iter(output["broken"]), None))
