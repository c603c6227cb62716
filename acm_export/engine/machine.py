"""TensorRT and the GPU of this machine."""

from __future__ import annotations

import importlib
from typing import Any

from acm_export.base.errors import EngineError, MissingDependencyError
from acm_export.engine.passport import Place
from acm_export.machine import gpu
from acm_export.machine.versions import numbers


def find_tensorrt(*, builder: bool = True) -> Any:
    """Import TensorRT.

    Args:
        builder: Whether it must be able to parse ONNX and build engines, or only to run them.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported, or has no builder.
    """
    hint = (
        "pip install 'acm-export[gpu]' (JetPack: apt install python3-libnvinfer); or: acm-export doctor --for tensorrt"
    )
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"TensorRT cannot be imported: {error}", hint) from error
    if builder and not (hasattr(module, "Builder") and hasattr(module, "OnnxParser")):
        raise MissingDependencyError(f"TensorRT {module.__version__} has no builder or no ONNX parser", hint)
    return module


def version_of(tensorrt: Any) -> tuple[int, int]:
    """Major and minor of a TensorRT module."""
    major, minor, *_ = (*numbers(tensorrt.__version__), 0, 0)
    return major, minor


def find_place(tensorrt: Any) -> Place:
    """The GPU that TensorRT builds for, the first, and TensorRT's version.

    Raises:
        EngineError: There is no GPU.
    """
    cuda = gpu.query_cuda()
    if not cuda.gpus:
        raise EngineError("there is no GPU here, and engines are of one", "acm-export doctor --for tensorrt says why")
    first = cuda.gpus[0]
    return Place(tensorrt.__version__, first.name, "sm_" + "".join(map(str, first.capability)))
