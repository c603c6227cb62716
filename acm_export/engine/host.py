"""TensorRT and the GPU of this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError, MissingDependencyError
from acm_export.base.optional import install_command
from acm_export.engine.release import MODULES, TENSORRT, TENSORRT_RTX, release_of
from acm_export.machine import gpu

if TYPE_CHECKING:
    from types import ModuleType

_RTX_PACKAGES = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings")
"""Tested: 1.7.1.116, for Python 3.12."""


@dataclass(frozen=True)
class Platform:
    """What an engine is tied to: it runs only on the GPU model and TensorRT version that it was built with.

    Args:
        tensorrt: Version of TensorRT, or of TensorRT-RTX.
        gpu: Name of the GPU; None for TensorRT-RTX, whose engines are not tied to one.
        arch: Architecture of the GPU, as in ``sm_87``; None where ``gpu`` is.
        runtime: ``tensorrt`` or ``tensorrt-rtx``.
    """

    tensorrt: str
    gpu: str | None
    arch: str | None
    runtime: str = TENSORRT


def find_tensorrt(runtime: str = TENSORRT, *, builder: bool = True) -> ModuleType:
    """Import TensorRT or TensorRT-RTX.

    Args:
        runtime: ``tensorrt`` or ``tensorrt-rtx``.
        builder: Whether it must be able to parse ONNX and build engines, or only to run them.

    Raises:
        MissingDependencyError: It is not installed, cannot be imported, or has no builder.
    """
    if runtime == TENSORRT_RTX:
        return _import_rtx()
    install = f"{install_command('gpu')}   (JetPack: apt install python3-libnvinfer)"
    hint = f"{install}; or: acm-export doctor --for tensorrt"
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"TensorRT cannot be imported: {error}", hint) from error
    if builder and not (hasattr(module, "Builder") and hasattr(module, "OnnxParser")):
        raise MissingDependencyError(f"TensorRT {module.__version__} has no builder or no ONNX parser", hint)
    return module


def _import_rtx() -> ModuleType:
    modules = MODULES[TENSORRT_RTX]
    name = next((name for name in modules if find_spec(name)), None)
    if name is None:
        raise MissingDependencyError(
            f"TensorRT-RTX is not installed for this Python: none of the modules {', '.join(modules)} is found",
            f"pip install {' '.join(_RTX_PACKAGES)}   (Python 3.12)",
        )
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"TensorRT-RTX cannot be imported: {error}", f"pip install --force-reinstall {' '.join(_RTX_PACKAGES)}"
        ) from error


def find_platform(tensorrt: ModuleType) -> Platform:
    """The version of TensorRT and the first GPU, which is the one that TensorRT builds for.

    TensorRT-RTX builds for no particular GPU and needs none.

    Raises:
        EngineError: There is no GPU to build for.
    """
    if release_of(tensorrt).is_rtx:
        return Platform(tensorrt.__version__, None, None, TENSORRT_RTX)
    cuda = gpu.query_cuda()
    if not cuda.gpus:
        raise EngineError(
            "no GPU found; an engine is built on the GPU that will run it",
            "acm-export doctor --for tensorrt shows the reason",
        )
    first = cuda.gpus[0]
    return Platform(tensorrt.__version__, first.name, "sm_" + "".join(map(str, first.capability)))
