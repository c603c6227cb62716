"""TensorRT engines: what ``build-engine`` wrote, and any engine as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError, UsageError
from acm_export.base.files import sha256_of
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
from acm_export.timing import device, routing
from acm_export.timing.backend import TimedFile
from acm_export.timing.meters import NoMeter, SessionMeter
from acm_export.timing.onnx_backend import check_gated
from acm_export.timing.result import ModelFile, RuntimeInfo
from acm_export.timing.runtime import Times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.engine.context import ExecutionContext
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.backend import Meter
    from acm_export.timing.device import Device
    from acm_export.timing.inputs import Feeds
    from acm_export.timing.routing import Thresholds


class EngineContext:
    """A context of an engine; its host time holds the copies of inputs into pinned memory, too.

    Args:
        context: From the engine.
    """

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context

    def run(self, feeds: Arrays) -> Times:
        """Run once."""
        _, times = self._context.run(feeds)
        return Times(times.compute_ms, times.enqueue_ms, times.transfer_ms)

    def close(self) -> None:
        """Free its memory and its stream."""
        self._context.close()


@dataclass(frozen=True)
class EngineRuntime:
    """A loaded engine.

    Args:
        engine: It.
        inputs: What every run has to be fed, with names for dynamic dimensions.
        cuda_graph: Whether its contexts launch graphs.
    """

    engine: Engine | LoadedEngine
    inputs: tuple[GraphInput, ...]
    cuda_graph: bool

    def context(self) -> EngineContext:
        """One more context, with a stream and buffers of its own."""
        return EngineContext(self.engine.context(cuda_graph=self.cuda_graph))

    def close(self) -> None:
        """Drop the engine."""
        self.engine.close()


class EngineBackend:
    """Runs engines.

    Args:
        plugin: The plugin library, or None for the one beside the engine.
        source: The ONNX file that the engine was built from, or None.
        cuda_graph: Whether work is launched as CUDA graphs.
    """

    graphs = on_gpu = True

    def __init__(self, plugin: Path | None = None, source: Path | None = None, *, cuda_graph: bool = False) -> None:
        self._plugin, self._source, self._graph = plugin, source, cuda_graph

    def read(self, path: Path) -> TimedFile:
        """Load the engine once, to see what it takes.

        Raises:
            EngineError: It cannot work here.
            UsageError: ``--onnx`` names another file than it was built from.
        """
        engine = Engine(path, self._plugin)
        try:
            passport, inputs = engine.passport, engine.inputs
            counted = {f"{COUNTS}{layer.name}" for layer in passport.manifest.layers} <= set(engine.outputs)
        finally:
            engine.close()
        manifest = passport.manifest
        check_gated(manifest, path)
        if self._source is not None and (digest := sha256_of(self._source)) != passport.model.sha256:
            raise UsageError(
                f"{path} was built from {passport.model.name}, SHA-256 {passport.model.sha256}; "
                f"{self._source} has {digest}",
                "give the file that it was built from with --onnx",
            )
        names = {value.name for value in inputs}
        dials = {INPUT} if manifest.budget_input else {layer.thresholds for layer in manifest.layers}
        return TimedFile(
            path, manifest, tuple(value for value in inputs if value.name not in dials), self._stored(manifest),
            takes_thresholds=not manifest.budget_input and dials <= names, takes_budget=manifest.budget_input,
            source=ModelFile(passport.model.name, passport.model.sha256), gives_counts=counted,
            profiles=passport.profiles,
        )  # fmt: skip

    def _stored(self, manifest: Manifest) -> Thresholds | None:
        if self._source is not None:
            model = read_model(self._source)
            return stored_thresholds(model, read_manifest(model, self._source), self._source.parent)
        if manifest.setting.threshold is None and manifest.setting.budget is None:
            return None  # thresholds of its own for each learner, which only the ONNX file has
        return setting_thresholds(manifest)

    def info(self) -> RuntimeInfo:
        """Name and version."""
        return RuntimeInfo("tensorrt", str(find_tensorrt(builder=False).__version__), "TensorRT")

    def place(self) -> Device:
        """The first GPU."""
        return device.gpu()

    def meter(self, file: TimedFile) -> Meter:
        """The ONNX file in ONNX Runtime, the counts that the engine gives, or both."""
        session = None if self._source is None else SessionMeter(TappedSession(self._source))
        if not file.gives_counts:
            return session or NoMeter()
        return CountsMeter(self.load(file, own_thresholds=True), file, session)

    def load(self, file: TimedFile, *, own_thresholds: bool) -> EngineRuntime:  # noqa: ARG002  the engine is as built
        """Load the engine."""
        engine = Engine(file.path, self._plugin)
        return EngineRuntime(engine, engine.inputs, self._graph)

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """What an engine has to be fed."""
        runtime = self.load_baseline(path)
        runtime.close()
        return runtime.inputs

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of the engine."""
        return sha256_of(path)

    def load_baseline(self, path: Path) -> EngineRuntime:
        """Load any engine; one that ``build-engine`` wrote is checked first.

        Raises:
            UsageError: It is an ONNX file.
            EngineError: There is none, or it cannot work here.
        """
        if path.suffix == ".onnx":
            raise UsageError(f"the baseline {path} is an ONNX file", f"build it: acm-export build-engine {path}")
        if passport_path(path).is_file():
            engine = Engine(path, self._plugin)
            return EngineRuntime(engine, engine.inputs, self._graph)
        if not path.is_file():
            raise EngineError(f"there is no engine {path}")
        loaded = LoadedEngine(find_tensorrt(builder=False), path.read_bytes(), str(path))
        inputs = tuple(GraphInput(t.name, _named(t.shape), t.dtype) for t in loaded.inputs)
        return EngineRuntime(loaded, inputs, self._graph)


class CountsMeter:
    """Takes budgets from the counts that an engine gives beside its outputs.

    Args:
        runtime: The engine, which is closed with the meter.
        file: It.
        session: For what counts do not show, or None.
    """

    def __init__(self, runtime: EngineRuntime, file: TimedFile, session: SessionMeter | None) -> None:
        self._runtime, self._layers, self._session = runtime, file.manifest.layers, session
        self._context = runtime.engine.context()

    def budget(self, feeds: Feeds, thresholds: Thresholds | None, dials: Arrays) -> float:  # noqa: ARG002
        """β of runs with those dials."""
        return routing.budget_of_counts(self._layers, self._counts(feeds, dials))

    def skewed(self, feeds: Feeds, start: Thresholds, max_learners: int | None) -> Thresholds | None:
        """From the ONNX file, which shows gate logits; None without it."""
        return None if self._session is None else self._session.skewed(feeds, start, max_learners)

    def close(self) -> None:
        """Close engine and session."""
        self._context.close()
        self._runtime.close()
        if self._session is not None:
            self._session.close()

    def _counts(self, feeds: Feeds, dials: Arrays) -> Iterator[tuple[Arrays, list[NDArray[np.int32]]]]:
        for batch in feeds.batches:
            outputs, _ = self._context.run(batch | dials)
            yield batch, [outputs[f"{COUNTS}{layer.name}"] for layer in self._layers]


def _named(shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """The shape with names for dynamic dimensions."""
    return tuple(f"dim{i}" if size < 0 else size for i, size in enumerate(shape))
