"""What latency needs of a runtime, and ONNX Runtime behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from acm_export.calibration.data import graph_inputs
from acm_export.optional import require
from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from acm_export.calibration.data import Arrays, GraphInput
    from acm_export.runtimes.onnx_runtime import Session

RUNTIMES: dict[str, type[Session]] = {"onnxruntime": CpuSession, "onnxruntime-cuda": CudaSession}
"""The sessions behind the names of ``--runtime``."""


class Runtime(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> tuple[GraphInput, ...]:
        """What every run has to be fed."""

    def run(self, feeds: Arrays) -> float | None:
        """Run once, from host memory to host memory.

        Returns:
            Milliseconds on the device, where the runtime tells them apart, else None.
        """

    def close(self) -> None:
        """Give back memory and threads; the runtime cannot run any more."""


class OnnxRuntime:
    """A model in ONNX Runtime, which does not tell device time apart.

    Args:
        model: As read; external data lie in ``folder``.
        folder: Where the file is.
        session: The class that runs it.

    Raises:
        MissingDependencyError: ONNX Runtime or its execution provider is missing.
        ModelFileError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, session: type[Session] = CpuSession) -> None:
        self._session: Session | None = session(model, folder)
        self.inputs = required_inputs(model)

    def run(self, feeds: Arrays) -> None:
        """Run once; returns when the outputs are in host memory."""
        if self._session is None:
            raise ValueError("the runtime is closed")
        self._session.run(feeds)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def required_inputs(model: onnx.ModelProto) -> tuple[GraphInput, ...]:
    """The inputs of a graph that have no default."""
    held = {tensor.name for tensor in model.graph.initializer}
    return graph_inputs(model, tuple(value.name for value in model.graph.input if value.name not in held))


def version(session: type[Session]) -> dict[str, str]:
    """The ``runtime`` of a result: name, version and execution provider."""
    runtime = require("onnxruntime")
    return {"name": "onnxruntime", "version": str(runtime.__version__), "provider": session.providers[0]}
