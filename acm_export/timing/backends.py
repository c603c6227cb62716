"""From ``--runtime`` and what goes with it to a backend; each is imported only where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.optional import EXPORT, require
from acm_export.timing.backend import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.timing.backend import Backend


@dataclass(frozen=True)
class Asked:
    """What the command line says about the runtime.

    Args:
        runtime: A name of :data:`BACKENDS`, or None to go by the file.
        cuda_graph: Whether work is to be launched as CUDA graphs.
        plugin: The plugin library, or None for the one beside the file.
        source: The ONNX file that an engine was built from, or None.
        checkpoint: The folder that the file was exported from, or None.
        engine_cache: Folder in which ONNX Runtime keeps the engines that it builds, or None.
    """

    runtime: str | None = None
    cuda_graph: bool = False
    plugin: Path | None = None
    source: Path | None = None
    checkpoint: Path | None = None
    engine_cache: Path | None = None


def open_backend(model: Path, asked: Asked) -> Backend:
    """The backend that is asked for.

    Args:
        model: The file to time.
        asked: How.

    Raises:
        UsageError: Options do not go together.
        MissingDependencyError: The runtime is not installed.
    """
    name = asked.runtime or runtime_of(model)
    for option, field, of in OPTIONS:
        if getattr(asked, field) is not None and name not in of:
            raise UsageError(f"{option} means nothing with the runtime {name}", f"it goes with {' and '.join(of)}")
    backend = BACKENDS[name](asked)
    if asked.cuda_graph and not backend.graphs:
        raise UsageError(
            f"--cuda-graph: {name} does not launch CUDA graphs here",
            "pytorch on a GPU and tensorrt do; the portable body, which ONNX Runtime runs, waits for the GPU at every "
            "learner, and that cannot be captured",
        )
    return backend


def runtime_of(model: Path) -> str:
    """The runtime for a file where none is asked for: TensorRT for engines, else ONNX Runtime on the CPU."""
    return "tensorrt" if model.suffix in ENGINES else "onnxruntime"


def _onnx_cpu(asked: Asked) -> Backend:  # noqa: ARG001
    require("onnxruntime")
    from acm_export.timing.onnx_backend import cpu

    return cpu()


def _onnx_cuda(asked: Asked) -> Backend:  # noqa: ARG001
    require("onnxruntime")
    from acm_export.timing.onnx_backend import cuda

    return cuda()


def _onnx_tensorrt(asked: Asked) -> Backend:
    require("onnxruntime")
    from acm_export.timing.tensorrt_provider import TensorrtProvider

    return TensorrtProvider(asked.plugin, asked.engine_cache)


def _engine(asked: Asked) -> Backend:
    from acm_export.timing.engine_backend import EngineBackend

    return EngineBackend(asked.plugin, asked.source, cuda_graph=asked.cuda_graph)


def _pytorch(asked: Asked) -> Backend:
    if asked.checkpoint is None:
        raise UsageError("the runtime pytorch runs the checkpoint of the file", "name its folder with --checkpoint")
    require(*EXPORT, "onnxruntime")
    from acm_export.timing.pytorch_backend import PytorchBackend

    return PytorchBackend(asked.checkpoint, cuda_graph=asked.cuda_graph)


BACKENDS: dict[str, Callable[[Asked], Backend]] = {
    "onnxruntime": _onnx_cpu,
    "onnxruntime-cuda": _onnx_cuda,
    "onnxruntime-tensorrt": _onnx_tensorrt,
    "tensorrt": _engine,
    "pytorch": _pytorch,
}
"""Behind the names of ``--runtime``."""

OPTIONS = (
    ("--plugin", "plugin", ("tensorrt", "onnxruntime-tensorrt")),
    ("--engine-cache", "engine_cache", ("onnxruntime-tensorrt",)),
    ("--onnx", "source", ("tensorrt",)),
    ("--checkpoint", "checkpoint", ("pytorch",)),
)
"""Options that only some runtimes take: the option, the field of :class:`Asked`, and the runtimes."""
