"""TensorRT and the GPU of this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError, MissingDependencyError
from acm_export.base.optional import install_command
from acm_export.machine import gpu
from acm_export.machine.versions import numbers

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Platform:
    """What an engine is tied to: it runs only on the GPU model and TensorRT version that it was built with.

    Args:
        tensorrt: Version of TensorRT.
        gpu: Name of the GPU.
        arch: Architecture of the GPU, as in ``sm_87``.
    """

    tensorrt: str
    gpu: str
    arch: str


def find_tensorrt(*, builder: bool = True) -> ModuleType:
    """Import TensorRT.

    Args:
        builder: Whether it must be able to parse ONNX and build engines, or only to run them.

    Raises:
        MissingDependencyError: TensorRT is not installed, cannot be imported, or has no builder.
    """
    install = f"{install_command('gpu')}   (JetPack: apt install python3-libnvinfer)"
    hint = f"{install}; or: acm-export doctor --for tensorrt"
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"TensorRT cannot be imported: {error}", hint) from error
    if builder and not (hasattr(module, "Builder") and hasattr(module, "OnnxParser")):
        raise MissingDependencyError(f"TensorRT {module.__version__} has no builder or no ONNX parser", hint)
    return module


def version_of(tensorrt: ModuleType) -> tuple[int, int]:
    """Major and minor version of a TensorRT module."""
    major, minor, *_ = (*numbers(tensorrt.__version__), 0, 0)
    return major, minor


def find_platform(tensorrt: ModuleType) -> Platform:
    """The version of TensorRT and the first GPU, which is the one that TensorRT builds for.

    Raises:
        EngineError: There is no GPU.
    """
    cuda = gpu.query_cuda()
    if not cuda.gpus:
        raise EngineError(
            "no GPU found; an engine is built on the GPU that will run it",
            "acm-export doctor --for tensorrt shows the reason",
        )
    first = cuda.gpus[0]
    return Platform(tensorrt.__version__, first.name, "sm_" + "".join(map(str, first.capability)))
