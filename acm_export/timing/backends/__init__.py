"""The runtimes that ``--runtime`` names; each is imported only when it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.optional import EXPORT, require
from acm_export.timing.backends.backend import ENGINE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.timing.backends.backend import Backend
    from acm_export.timing.request import LatencyRequest


def open_backend(request: LatencyRequest) -> Backend:
    """Open the runtime of a request.

    Raises:
        UsageError: An option does not apply to the runtime.
        MissingDependencyError: The runtime is not installed.
    """
    name = request.runtime or default_runtime(request.model)
    for option, field, runtimes in OPTIONS:
        if getattr(request, field) is not None and name not in runtimes:
            raise UsageError(
                f"{option} does not apply to --runtime {name}", f"it applies to --runtime {' and '.join(runtimes)}"
            )
    if request.baseline_int8 and name not in INT8_BASELINE:
        raise UsageError(
            f"--baseline-int8 does not apply to --runtime {name}",
            f"it applies to --runtime {' and '.join(INT8_BASELINE)}; for an engine, quantize the dense file with "
            "acm-export quantize, build its engine, and give that with --baseline",
        )
    backend = BACKENDS[name](request)
    if request.cuda_graph and not backend.cuda_graphs:
        raise UsageError(
            f"--cuda-graph: {name} cannot launch CUDA graphs here",
            "use --runtime pytorch on a GPU, or tensorrt; the portable body that ONNX Runtime runs waits for the GPU "
            "at every learner, which a graph cannot capture",
        )
    return backend


def default_runtime(model: Path) -> str:
    """TensorRT for an engine, otherwise ONNX Runtime on the CPU."""
    return "tensorrt" if model.suffix in ENGINE_SUFFIXES else "onnxruntime"


def _onnx_cpu(request: LatencyRequest) -> Backend:  # noqa: ARG001
    require("onnxruntime")
    from acm_export.timing.backends.onnx_backend import OnnxBackend

    return OnnxBackend()


def _onnx_cuda(request: LatencyRequest) -> Backend:  # noqa: ARG001
    require("onnxruntime")
    from acm_export.runtimes.onnx_runtime import CudaSession
    from acm_export.timing.backends.onnx_backend import OnnxBackend

    return OnnxBackend(CudaSession)


def _onnx_tensorrt(request: LatencyRequest) -> Backend:
    require("onnxruntime")
    from acm_export.timing.backends.tensorrt_provider import TensorrtProvider

    return TensorrtProvider(request.plugin, request.engine_cache)


def _engine(request: LatencyRequest) -> Backend:
    from acm_export.timing.backends.engine_backend import EngineBackend

    return EngineBackend(request.plugin, request.onnx, cuda_graph=request.cuda_graph)


def _pytorch(request: LatencyRequest) -> Backend:
    if request.checkpoint is None:
        raise UsageError(
            "--runtime pytorch runs the checkpoint that MODEL was exported from", "give its folder with --checkpoint"
        )
    require(*EXPORT, "onnxruntime")
    from acm_export.timing.backends.pytorch_backend import PytorchBackend

    return PytorchBackend(request.checkpoint, baseline_part=request.part, cuda_graph=request.cuda_graph)


BACKENDS: dict[str, Callable[[LatencyRequest], Backend]] = {
    "onnxruntime": _onnx_cpu,
    "onnxruntime-cuda": _onnx_cuda,
    "onnxruntime-tensorrt": _onnx_tensorrt,
    "tensorrt": _engine,
    "pytorch": _pytorch,
}
"""Backends by the name that ``--runtime`` takes."""

INT8_BASELINE = ("onnxruntime", "onnxruntime-cuda")
"""Runtimes that take ``--baseline-int8``: those that run a portable ONNX file."""

OPTIONS = (
    ("--plugin", "plugin", ("tensorrt", "onnxruntime-tensorrt")),
    ("--engine-cache", "engine_cache", ("onnxruntime-tensorrt",)),
    ("--onnx", "onnx", ("tensorrt",)),
    ("--checkpoint", "checkpoint", ("pytorch",)),
)
"""Options that only some runtimes take: option, field of :class:`LatencyRequest`, runtimes."""
