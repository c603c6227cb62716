"""A latency result: what was measured, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from acm_export.timing.device import Device
    from acm_export.timing.statistics import Line, Statistics

SCHEMA = 1


@dataclass(frozen=True)
class ModelFile:
    """A file: its name as given, and its SHA-256, or None where it was not there to be read."""

    file: str
    sha256: str | None


@dataclass(frozen=True)
class RuntimeInfo:
    """What ran it; None for a version that is not known."""

    name: str
    version: str | None
    provider: str


def run_key(inputs: Mapping[str, Sequence[int]], routing: str, budget: float | None, streams: int) -> tuple[Any, ...]:
    """What two results of the same run have in common: shapes, routing, requested budget and streams."""
    return tuple((name, tuple(shape)) for name, shape in sorted(inputs.items())), routing, budget, streams


@dataclass(frozen=True)
class RunResult:
    """One combination of batch, routing and budget.

    Args:
        inputs: Shapes by name.
        routing: data, least, most or skewed.
        budget_requested: β, or None where a threshold, the file's setting or the routing decides.
        budget_measured: β from the learner counts of the same inputs.
        host_ms: From feeding to outputs in host memory.
        device_ms: On the device alone, or None where the runtime does not tell; the next two likewise.
        enqueue_ms: That the host took to hand the work to the device.
        transfer_ms: Of inputs to the device and outputs back.
        streams: That ran at once.
        throughput: Samples per second of all streams together; None in results of before it was measured.
    """

    inputs: dict[str, list[int]]
    routing: str
    budget_requested: float | None
    budget_measured: float | None
    host_ms: Statistics
    device_ms: Statistics | None
    enqueue_ms: Statistics | None = None
    transfer_ms: Statistics | None = None
    streams: int = 1
    throughput: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What two results of the same run have in common."""
        return run_key(self.inputs, self.routing, self.budget_requested, self.streams)

    @property
    def batch(self) -> int | None:
        """Length of the first input's leading axis; None where inputs are not known."""
        return next((shape[0] for shape in self.inputs.values()), None)


@dataclass(frozen=True)
class BaselineRun:
    """The baseline beside one run, in the same order as the runs.

    Args:
        host_ms: As of the run, and so are the others.
        device_ms: See there.
        ratio: Median of the model ÷ median of the baseline.
        enqueue_ms: See there.
        transfer_ms: See there.
        throughput: See there.
    """

    host_ms: Statistics
    device_ms: Statistics | None
    ratio: float
    enqueue_ms: Statistics | None = None
    transfer_ms: Statistics | None = None
    throughput: float | None = None


@dataclass(frozen=True)
class Baseline:
    """The file that was timed in between, and its times beside every run."""

    model: ModelFile
    runs: tuple[BaselineRun, ...]


@dataclass(frozen=True)
class Result:
    """Everything that was measured.

    Args:
        model: The file.
        runtime: What ran it.
        device: Where.
        command: The command line.
        time: When it began, ISO 8601 with the offset.
        runs: In the order in which they were made.
        fit: Time against β, of the first batch.
        baseline: Or None.
        warnings: Why the times may not be trusted.
        partial: Whether some runs are missing, because of an interrupt or an error.
        error: What ended it, where that was an error.
        source: The ONNX file that the model was built from, where the model is an engine.
        cuda_graph: Whether runs were launched as CUDA graphs.
    """

    model: ModelFile
    runtime: RuntimeInfo
    device: Device
    command: str
    time: str
    runs: tuple[RunResult, ...]
    fit: Line
    baseline: Baseline | None = None
    warnings: tuple[str, ...] = ()
    partial: bool = False
    error: str | None = None
    source: ModelFile | None = None
    cuda_graph: bool = False

    @property
    def identity(self) -> str | None:
        """SHA-256 by which results are of one model: of the ONNX file, from which engines are built anew."""
        return self.model.sha256 if self.source is None else self.source.sha256

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {"schema": SCHEMA, **asdict(self)}
