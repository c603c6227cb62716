"""TensorRT engines: those of ``build-engine``, and any engine as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.files import check_input, sha256_of
from acm_export.data.batches import GraphInput
from acm_export.engine.agreement import COUNTS
from acm_export.engine.host import find_tensorrt
from acm_export.engine.passport import passport_path
from acm_export.engine.runtime import Engine, LoadedEngine
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.thresholds import setting_thresholds
from acm_export.runtimes.session import TappedSession
from acm_export.timing import environment, routing
from acm_export.timing.backends.backend import DeviceTimes, TimedFile
from acm_export.timing.backends.onnx_backend import check_gated
from acm_export.timing.result import ModelFile, RuntimeInfo
from acm_export.timing.routing import NoMeter, SessionMeter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.engine.context import ExecutionContext
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.backends.backend import BudgetMeter
    from acm_export.timing.environment import Device
    from acm_export.timing.inputs import InputBatches
    from acm_export.timing.routing import Thresholds


class EngineContext:
    """An execution context of an engine. Its host time includes the copies of inputs into pinned memory.

    Args:
        context: Execution context.
    """

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context

    def run(self, feeds: Arrays) -> DeviceTimes:
        """Run once."""
        _, times = self._context.run(feeds)
        return DeviceTimes(times.compute_ms, times.enqueue_ms, times.transfer_ms)

    def close(self) -> None:
        """Free its memory and its stream."""
        self._context.close()


@dataclass(frozen=True)
class EngineModel:
    """A loaded engine.

    Args:
        engine: Engine to run.
        inputs: Inputs of the engine, with names for dynamic dimensions.
        cuda_graph: Whether its contexts launch CUDA graphs.
    """

    engine: Engine | LoadedEngine
    inputs: tuple[GraphInput, ...]
    cuda_graph: bool

    def context(self) -> EngineContext:
        """Create a context with its own stream and buffers."""
        return EngineContext(self.engine.context(cuda_graph=self.cuda_graph))

    def close(self) -> None:
        """Drop the engine."""
        self.engine.close()


class EngineBackend:
    """Runs engines.

    Args:
        plugin: Path of the plugin library; None for the one next to the engine.
        source: The ONNX file that the engine was built from, or None.
        cuda_graph: Whether each run is launched as a CUDA graph.
    """

    cuda_graphs = on_gpu = True

    def __init__(self, plugin: Path | None = None, source: Path | None = None, *, cuda_graph: bool = False) -> None:
        self._plugin, self._source, self._cuda_graph = plugin, source, cuda_graph

    def read(self, path: Path) -> TimedFile:
        """Load the engine once to read its inputs and outputs.

        Raises:
            EngineError: The engine does not run on this machine.
            UsageError: ``--onnx`` is not the file that the engine was built from.
        """
        engine = Engine(path, self._plugin)
        try:
            passport, inputs = engine.passport, engine.inputs
            gives_counts = {f"{COUNTS}{layer.name}" for layer in passport.manifest.layers} <= set(engine.outputs)
        finally:
            engine.close()
        manifest = passport.manifest
        check_gated(manifest, path)
        if self._source is not None and (digest := sha256_of(self._source)) != passport.model.sha256:
            raise UsageError(
                f"{path} was built from {passport.model.name}, SHA-256 {passport.model.sha256}; "
                f"--onnx {self._source} has SHA-256 {digest}",
                "give the file that the engine was built from with --onnx",
            )
        names = {value.name for value in inputs}
        controls = {INPUT} if manifest.budget_input else {layer.thresholds for layer in manifest.layers}
        return TimedFile(
            path,
            manifest,
            tuple(value for value in inputs if value.name not in controls),
            self._stored(manifest),
            takes_thresholds=not manifest.budget_input and controls <= names,
            takes_budget=manifest.budget_input,
            source=ModelFile(passport.model.name, passport.model.sha256),
            gives_counts=gives_counts,
            profiles=passport.profiles,
        )

    def _stored(self, manifest: Manifest) -> Thresholds | None:
        if self._source is not None:
            model = read_model(self._source)
            return stored_thresholds(model, read_manifest(model, self._source), self._source.parent)
        if manifest.setting.threshold is None and manifest.setting.budget is None:
            return None  # each learner has its own threshold, which only the ONNX file stores
        return setting_thresholds(manifest)

    def info(self) -> RuntimeInfo:
        """Name and version."""
        return RuntimeInfo("tensorrt", str(find_tensorrt(builder=False).__version__), "TensorRT")

    def device(self) -> Device:
        """The first GPU."""
        return environment.gpu()

    def meter(self, file: TimedFile) -> BudgetMeter:
        """Measure budgets with the ONNX file in ONNX Runtime, the learner counts of the engine, or both."""
        session = None if self._source is None else SessionMeter(TappedSession(self._source))
        if not file.gives_counts:
            return session or NoMeter()
        return CountsMeter(self.load(file, own_thresholds=True), file, session)

    def load(self, file: TimedFile, *, own_thresholds: bool) -> EngineModel:  # noqa: ARG002  an engine cannot be changed
        """Load the engine."""
        engine = Engine(file.path, self._plugin)
        return EngineModel(engine, engine.inputs, self._cuda_graph)

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """Inputs of an engine."""
        model = self.load_baseline(path)
        model.close()
        return model.inputs

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of the engine."""
        return sha256_of(path)

    def load_baseline(self, path: Path) -> EngineModel:
        """Load any engine; one that ``build-engine`` wrote is checked first.

        Raises:
            UsageError: The file is missing or is an ONNX file.
            EngineError: The engine does not run on this machine.
        """
        if path.suffix == ".onnx":
            raise UsageError(
                f"the baseline {path} is an ONNX file, the model is an engine",
                f"build an engine from it: acm-export build-engine {path} -o {path.with_suffix('.plan')}",
            )
        if passport_path(path).is_file():
            engine = Engine(path, self._plugin)
            return EngineModel(engine, engine.inputs, self._cuda_graph)
        check_input(path)
        loaded = LoadedEngine(find_tensorrt(builder=False), path.read_bytes(), str(path))
        inputs = tuple(GraphInput(t.name, _named(t.shape), t.dtype) for t in loaded.inputs)
        return EngineModel(loaded, inputs, self._cuda_graph)


class CountsMeter:
    """Measures budgets from the learner counts among an engine's outputs.

    Args:
        model: The engine, which is closed with the meter.
        file: File of the engine.
        session: Session of the ONNX file, which shows gate logits; None without it.
    """

    def __init__(self, model: EngineModel, file: TimedFile, session: SessionMeter | None) -> None:
        self._model, self._layers, self._session = model, file.manifest.layers, session
        self._context = model.engine.context()

    def budget(self, inputs: InputBatches, thresholds: Thresholds | None, controls: Arrays) -> float:  # noqa: ARG002
        """Measure β of runs that feed these controls."""
        return routing.budget_of_counts(self._layers, self._counts(inputs, controls))

    def skewed(self, inputs: InputBatches, start: Thresholds, max_learners: int | None) -> Thresholds | None:
        """Find the worst skew with the ONNX file; None without it."""
        return None if self._session is None else self._session.skewed(inputs, start, max_learners)

    def close(self) -> None:
        """Close the engine and the session."""
        self._context.close()
        self._model.close()
        if self._session is not None:
            self._session.close()

    def _counts(self, inputs: InputBatches, controls: Arrays) -> Iterator[tuple[Arrays, list[NDArray[np.int32]]]]:
        for batch in inputs.batches:
            outputs, _ = self._context.run(batch | controls)
            yield batch, [outputs[f"{COUNTS}{layer.name}"] for layer in self._layers]


def _named(shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """The shape with names for dynamic dimensions."""
    return tuple(f"dim{i}" if size < 0 else size for i, size in enumerate(shape))
