"""Portable files in ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from acm_export.base.errors import ModelFileError, UsageError
from acm_export.base.files import sha256_of
from acm_export.base.optional import require
from acm_export.data.batches import graph_inputs
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession
from acm_export.runtimes.runnable import thresholds_as_inputs
from acm_export.runtimes.session import TappedSession
from acm_export.timing import device
from acm_export.timing.backend import ENGINES, TimedFile
from acm_export.timing.meters import SessionMeter
from acm_export.timing.result import RuntimeInfo
from acm_export.timing.runtime import UNTOLD

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.runtimes.onnx_runtime import Session
    from acm_export.timing.device import Device
    from acm_export.timing.runtime import Times


class OnnxRuntime:
    """A model in ONNX Runtime, which tells no times; its contexts share one session, whose calls may overlap.

    Args:
        session: That runs it.
        inputs: What every run has to be fed.
    """

    def __init__(self, session: Session, inputs: tuple[GraphInput, ...]) -> None:
        self._session: Session | None = session
        self.inputs = inputs

    def context(self) -> OnnxRuntime:
        """The runtime itself."""
        return self

    def run(self, feeds: Arrays) -> Times:
        """Run once; returns when the outputs are in host memory."""
        if self._session is None:
            raise ValueError("the runtime is closed")
        self._session.run(feeds)
        return UNTOLD

    def close(self) -> None:
        """Drop the session."""
        self._session = None


class OnnxBackend:
    """Runs portable files.

    Args:
        session: The class that runs them.
    """

    graphs = False

    def __init__(self, session: type[Session] = CpuSession) -> None:
        self.session = session
        self.on_gpu = session is not CpuSession

    def read(self, path: Path) -> TimedFile:
        """Read a file.

        Raises:
            ModelFileError: It is broken, not ours, or not for this runtime.
        """
        file = read_onnx(path)
        self.check(file.manifest, path)
        return replace(file, takes_budget=file.manifest.budget_input)

    def check(self, manifest: Manifest, path: Path) -> None:
        """Refuse files that the session does not run as they are.

        Raises:
            ModelFileError: It is one.
        """
        if manifest.target != "portable":
            raise ModelFileError(
                f"{path} is for the target {manifest.target}, which ONNX Runtime does not run by itself",
                "export it with --target portable; times of one target say nothing about another",
            )
        if manifest.dtype == "bf16" and self.session is CpuSession:
            raise ModelFileError(
                f"{path} is bf16, which ONNX Runtime's CPU provider does not have",
                "time it with --runtime onnxruntime-cuda, or export it with --dtype fp32",
            )

    def info(self) -> RuntimeInfo:
        """Name, version and execution provider."""
        runtime = require("onnxruntime")
        return RuntimeInfo("onnxruntime", str(runtime.__version__), self.session.providers[0])

    def place(self) -> Device:
        """The CPU, or the first GPU."""
        return device.gpu() if self.on_gpu else device.cpu()

    def meter(self, file: TimedFile) -> SessionMeter:
        """A session of the same kind."""
        return SessionMeter(TappedSession(file.path, self.session))

    def load(self, file: TimedFile, *, own_thresholds: bool) -> OnnxRuntime:
        """Load the file, or its copy with thresholds as inputs."""
        model = read_model(file.path)
        if not own_thresholds:
            feed_thresholds(model, file)
        return self.open(model, file.path.parent)

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """What an ONNX file has to be fed."""
        if path.suffix in ENGINES:
            raise UsageError(
                f"the baseline {path} is an engine", "engines are baselines of engines: --runtime tensorrt"
            )
        return required_inputs(read_model(path))

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of the file."""
        return sha256_of(path)

    def load_baseline(self, path: Path) -> OnnxRuntime:
        """Load any ONNX file."""
        return self.open(read_model(path), path.parent)

    def open(self, model: onnx.ModelProto, folder: Path) -> OnnxRuntime:
        """Load a model whose external data lie in a folder."""
        return OnnxRuntime(self.session(model, folder), required_inputs(model))


def read_onnx(path: Path) -> TimedFile:
    """Read a file for any target.

    Raises:
        ModelFileError: It is broken, not ours, or has no gated learners.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    check_gated(manifest, path)
    inputs = tuple(v for v in required_inputs(model) if v.name != budget_input.INPUT or not manifest.budget_input)
    return TimedFile(path, manifest, inputs, stored_thresholds(model, manifest, path.parent))


def cpu() -> OnnxBackend:
    """On the CPU."""
    return OnnxBackend(CpuSession)


def cuda() -> OnnxBackend:
    """On an NVIDIA GPU."""
    return OnnxBackend(CudaSession)


def required_inputs(model: onnx.ModelProto) -> tuple[GraphInput, ...]:
    """The inputs of a graph that have no default."""
    held = {tensor.name for tensor in model.graph.initializer}
    return graph_inputs(model, tuple(value.name for value in model.graph.input if value.name not in held))


def feed_thresholds(model: onnx.ModelProto, file: TimedFile) -> None:
    """Let calls give the thresholds of each layer, in place; a budget input goes."""
    if file.manifest.budget_input:
        budget_input.detach(model, stored_thresholds(model, file.manifest, file.path.parent))
    thresholds_as_inputs(model, file.manifest)


def check_gated(manifest: Manifest, path: Path) -> None:
    """Refuse files whose time does not depend on a budget.

    Raises:
        ModelFileError: It is one.
    """
    if not any(layer.num_learners > layer.min_learners for layer in manifest.layers):
        raise ModelFileError(f"{path} has no gated learners: its time does not depend on a budget", "use --baseline")
