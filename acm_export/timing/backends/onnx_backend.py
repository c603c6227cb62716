"""Portable ONNX files in ONNX Runtime, on the CPU or with its CUDA provider."""

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
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import thresholds_as_inputs
from acm_export.runtimes.session import TappedSession
from acm_export.timing import environment
from acm_export.timing.backends.backend import ENGINE_SUFFIXES, NO_DEVICE_TIMES, TimedFile
from acm_export.timing.result import RuntimeInfo
from acm_export.timing.routing import SessionMeter

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.runtimes.onnx_runtime import Session
    from acm_export.timing.backends.backend import DeviceTimes
    from acm_export.timing.environment import Device


class OnnxModel:
    """A model in an ONNX Runtime session, which reports no device times.

    The model is its own context: the calls of a session may overlap.

    Args:
        session: Session that holds the model.
        inputs: Inputs of the model.
    """

    def __init__(self, session: Session, inputs: tuple[GraphInput, ...]) -> None:
        self._session: Session | None = session
        self.inputs = inputs

    def context(self) -> OnnxModel:
        """The model itself."""
        return self

    def run(self, feeds: Arrays) -> DeviceTimes:
        """Run once; returns when the outputs are in host memory."""
        if self._session is None:
            raise ValueError("the session is closed")
        self._session.run(feeds)
        return NO_DEVICE_TIMES

    def close(self) -> None:
        """Drop the session."""
        self._session = None


class OnnxBackend:
    """Runs portable ONNX files.

    Args:
        session: Session class, which decides the execution provider.
    """

    cuda_graphs = False

    def __init__(self, session: type[Session] = CpuSession) -> None:
        self.session = session
        self.on_gpu = session is not CpuSession

    def read(self, path: Path) -> TimedFile:
        """Read a file and check that it can be timed.

        Raises:
            ModelFileError: The file is broken, has no gated learners, or is not meant for this runtime.
        """
        file = read_onnx(path)
        self.check(file.manifest, path)
        return replace(file, takes_budget=file.manifest.budget_input)

    def check(self, manifest: Manifest, path: Path) -> None:
        """Refuse files that the session cannot run as they are.

        Raises:
            ModelFileError: The target or dtype of the file is not supported.
        """
        if manifest.target != "portable":
            raise ModelFileError(
                f"{path} is exported for the target {manifest.target}, which ONNX Runtime cannot run alone",
                f"acm-export retarget {path} --target portable -o M.onnx; times of targets are not comparable",
            )
        if manifest.dtype == "bf16" and self.session is CpuSession:
            raise ModelFileError(
                f"{path} is bf16, which ONNX Runtime's CPU provider does not support",
                "time it with --runtime onnxruntime-cuda, or export it with --dtype fp32",
            )

    def info(self) -> RuntimeInfo:
        """Name, version and execution provider."""
        runtime = require("onnxruntime")
        return RuntimeInfo("onnxruntime", str(runtime.__version__), self.session.providers[0])

    def device(self) -> Device:
        """The CPU, or the first GPU."""
        return environment.gpu() if self.on_gpu else environment.cpu()

    def meter(self, file: TimedFile) -> SessionMeter:
        """Measure budgets in a session of the same kind."""
        return SessionMeter(TappedSession(file.path, self.session))

    def load(self, file: TimedFile, *, own_thresholds: bool) -> OnnxModel:
        """Load the file, or a copy of it that takes thresholds as inputs."""
        model = read_model(file.path)
        if not own_thresholds:
            make_thresholds_inputs(model, file)
        return self.open(model, file.path.parent)

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """Inputs of an ONNX file."""
        if path.suffix in ENGINE_SUFFIXES:
            raise UsageError(
                f"the baseline {path} is an engine, the model is an ONNX file",
                "give an ONNX file with --baseline, or time two engines with --runtime tensorrt",
            )
        return required_inputs(read_model(path))

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of the file."""
        return sha256_of(path)

    def load_baseline(self, path: Path) -> OnnxModel:
        """Load any ONNX file."""
        return self.open(read_model(path), path.parent)

    def open(self, model: onnx.ModelProto, folder: Path) -> OnnxModel:
        """Open a session.

        Args:
            model: Model to run.
            folder: Folder of its external data.
        """
        return OnnxModel(self.session(model, folder), required_inputs(model))


def read_onnx(path: Path) -> TimedFile:
    """Read a file of any target.

    Raises:
        ModelFileError: The file is broken, was not written by acm-export, or has no gated learners.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    check_gated(manifest, path)
    inputs = tuple(v for v in required_inputs(model) if v.name != budget_input.INPUT or not manifest.budget_input)
    return TimedFile(path, manifest, inputs, stored_thresholds(model, manifest, path.parent))


def required_inputs(model: onnx.ModelProto) -> tuple[GraphInput, ...]:
    """The inputs of a graph that have no default."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return graph_inputs(model, tuple(value.name for value in model.graph.input if value.name not in defaults))


def make_thresholds_inputs(model: onnx.ModelProto, file: TimedFile) -> None:
    """Make the thresholds of each layer inputs, in place; a budget input is removed."""
    if file.manifest.budget_input:
        budget_input.detach(model, stored_thresholds(model, file.manifest, file.path.parent))
    thresholds_as_inputs(model, file.manifest)


def check_gated(manifest: Manifest, path: Path) -> None:
    """Refuse files whose latency does not depend on a budget.

    Raises:
        ModelFileError: No layer has gated learners.
    """
    if not any(layer.num_learners > layer.min_learners for layer in manifest.layers):
        raise ModelFileError(
            f"{path} has no gated learners: its latency does not depend on a budget",
            "time a file with gated learners, and give this one with --baseline",
        )
