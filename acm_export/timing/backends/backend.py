"""Interface of the runtimes behind ``--runtime``: read a model, measure its β, load it and run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.environment import Device
    from acm_export.timing.inputs import InputBatches
    from acm_export.timing.result import ModelFile, RuntimeInfo
    from acm_export.timing.routing import Thresholds

ENGINE_SUFFIXES = (".plan", ".engine", ".trt")


@dataclass(frozen=True)
class DeviceTimes:
    """What a runtime reports about one run, in milliseconds; None for a time that it does not report.

    Args:
        device_ms: Time on the device, without transfers.
        enqueue_ms: Time that the host takes to enqueue the work.
        transfer_ms: Time of copying inputs to the device and outputs back.
    """

    device_ms: float | None = None
    enqueue_ms: float | None = None
    transfer_ms: float | None = None


NO_DEVICE_TIMES = DeviceTimes()


class RunContext(Protocol):
    """Runs a loaded model, from one thread at a time."""

    def run(self, feeds: Arrays) -> DeviceTimes:
        """Run once, from inputs in host memory to outputs in host memory.

        Args:
            feeds: The inputs, and the thresholds or the budget if the model takes them.
        """

    def close(self) -> None:
        """Free what this context holds; it cannot run after that."""


class LoadedModel(Protocol):
    """A model that is ready to run."""

    @property
    def inputs(self) -> tuple[GraphInput, ...]:
        """All inputs of the model, thresholds and budget included."""

    def context(self) -> RunContext:
        """Create a context. Contexts run at the same time, each in its own thread."""

    def close(self) -> None:
        """Free the model, after its contexts were closed."""


@dataclass(frozen=True)
class TimedFile:
    """A file that was read and can be timed.

    Args:
        path: Path of the file.
        manifest: Manifest of the file, or of the ONNX file that the engine was built from.
        inputs: Inputs that every run feeds, without thresholds and budget.
        stored: Thresholds set in the file; None if they are not known.
        takes_thresholds: Whether a run can feed thresholds, which controlled routing needs.
        takes_budget: Whether a run can feed a budget, which the file turns into thresholds.
        source: The ONNX file that an engine was built from; None for an ONNX file.
        gives_counts: Whether learner counts are among its outputs.
        profiles: Minimum, optimum and maximum shape by input; empty if any shape is accepted.
    """

    path: Path
    manifest: Manifest
    inputs: tuple[GraphInput, ...]
    stored: Thresholds | None
    takes_thresholds: bool = True
    takes_budget: bool = False
    source: ModelFile | None = None
    gives_counts: bool = False
    profiles: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)


class BudgetMeter(Protocol):
    """Measures β by running inputs once, before anything is timed."""

    def budget(self, inputs: InputBatches, thresholds: Thresholds | None, controls: Arrays) -> float | None:
        """Measure β over all batches; None if learner counts are not visible.

        Args:
            inputs: Batches to run.
            thresholds: Thresholds of the run; None if only the engine holds them.
            controls: Thresholds or budget that the timed run feeds with the inputs.
        """

    def skewed(self, inputs: InputBatches, start: Thresholds, max_learners: int | None) -> Thresholds | None:
        """Find thresholds for the worst skew at the same budget; None if gate logits are not visible."""

    def close(self) -> None:
        """Free memory before timing starts."""


class Backend(Protocol):
    """One runtime, with the options it was opened with."""

    on_gpu: bool
    cuda_graphs: bool
    """Whether it can launch its work as a CUDA graph."""

    def read(self, path: Path) -> TimedFile:
        """Read a file and check that it can be timed.

        Raises:
            AcmError: The file is broken or not meant for this runtime.
        """

    def info(self) -> RuntimeInfo:
        """Name, version and execution provider of the runtime."""

    def device(self) -> Device:
        """The device that the runtime uses."""

    def meter(self, file: TimedFile) -> BudgetMeter:
        """Open a meter of the budgets of a file."""

    def load(self, file: TimedFile, *, own_thresholds: bool) -> LoadedModel:
        """Load a file.

        Args:
            file: File to load, from :meth:`read`.
            own_thresholds: Whether it uses its own thresholds; otherwise every run feeds them.

        Raises:
            AcmError: The runtime is missing or rejects the file.
        """

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """Inputs of a baseline.

        Raises:
            AcmError: This runtime cannot run the baseline.
        """

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of a baseline file, or of a checkpoint's weights."""

    def load_baseline(self, path: Path) -> LoadedModel:
        """Load a baseline, unchanged."""
