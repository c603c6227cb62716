"""The result of a latency measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from acm_export.base.json_fields import JsonObject
    from acm_export.timing.environment import Device
    from acm_export.timing.lengths import Lengths
    from acm_export.timing.statistics import LinearFit, Statistics

    Percentiles = dict[str, dict[str, float]]
    """Milliseconds by percentile (``p99.9``) by time (``host_ms``, ``device_ms``)."""

    RunKey = tuple[object, str, float | None, int]

SCHEMA = 1


@dataclass(frozen=True)
class ModelFile:
    """A file: its name as given, and its SHA-256, or None if it could not be read."""

    file: str
    sha256: str | None


@dataclass(frozen=True)
class RuntimeInfo:
    """The runtime that ran the model; the version is None if it is not known."""

    name: str
    version: str | None
    provider: str


def run_key(
    inputs: Mapping[str, Sequence[int]],
    routing: str,
    budget: float | None,
    streams: int,
    lengths: Lengths | None = None,
) -> RunKey:
    """Key that identifies the same run in two results: shapes or lengths, routing, requested budget and streams."""
    if lengths is None:
        shapes: object = tuple((name, tuple(shape)) for name, shape in sorted(inputs.items()))
    else:
        batch = next((shape[0] for shape in inputs.values()), None)
        shapes = (batch, lengths.axis, None if lengths.whole else lengths.high)
    return shapes, routing, budget, streams


@dataclass(frozen=True)
class RunResult:
    """One combination of batch size, routing and budget.

    Args:
        inputs: Shapes by input; of requests of different lengths the largest.
        routing: data, least, most or skewed.
        budget_requested: Requested β; None if a threshold, the file's setting or the routing decides.
        budget_measured: β from the learner counts of the same inputs; None if they are not visible.
        host_ms: Host time from inputs to outputs in host memory.
        device_ms: Time on the device alone; None if the runtime does not report it.
        enqueue_ms: Time that the host takes to enqueue the work; None if the runtime does not report it.
        transfer_ms: Time of transfers to and from the device; None if the runtime does not report it.
        streams: Streams that ran at the same time.
        throughput: Samples per second of all streams together; None in results that did not record it.
        percentiles: Requested further percentiles, or None.
        lengths: Lengths of the requests; None if all have the shapes ``inputs``.
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
    percentiles: Percentiles | None = None
    lengths: Lengths | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this is a run as it was timed, not only its requests of some lengths."""
        return self.lengths is None or self.lengths.whole

    @property
    def key(self) -> RunKey:
        """Key that identifies the same run in another result."""
        return run_key(self.inputs, self.routing, self.budget_requested, self.streams, self.lengths)

    @property
    def batch(self) -> int | None:
        """Length of the first input's leading axis; None if the inputs are not known."""
        return next((shape[0] for shape in self.inputs.values()), None)

    def __str__(self) -> str:
        """Short description for people."""
        at = "" if self.budget_requested is None else f" at {self.budget_requested:g}"
        batch = "" if self.batch is None else f", batch {self.batch}"
        streams = "" if self.streams == 1 else f", {self.streams} streams"
        lengths = "" if self.lengths is None else f", {self.lengths}"
        return f"{self.routing}{at}{batch}{lengths}{streams}"


def first_batch(runs: Sequence[RunResult]) -> tuple[int, ...]:
    """Indices of the runs of the first batch size; of requests of different lengths those of all requests."""
    return tuple(
        index for index, run in enumerate(runs) if (run.inputs, run.lengths) == (runs[0].inputs, runs[0].lengths)
    )


@dataclass(frozen=True)
class BaselineRun:
    """The baseline timed with one run, in the same order as the runs.

    Args:
        host_ms: Host time, as for the run.
        device_ms: Device time, as for the run.
        ratio: Median host time of the model ÷ that of the baseline; of requests of different lengths the median of the
            ratios of single requests.
        enqueue_ms: Enqueue time, as for the run.
        transfer_ms: Transfer time, as for the run.
        throughput: Samples per second, as for the run.
        percentiles: Requested further percentiles, or None.
    """

    host_ms: Statistics
    device_ms: Statistics | None
    ratio: float
    enqueue_ms: Statistics | None = None
    transfer_ms: Statistics | None = None
    throughput: float | None = None
    percentiles: Percentiles | None = None


@dataclass(frozen=True)
class Baseline:
    """The baseline's file, and its times with every run."""

    model: ModelFile
    runs: tuple[BaselineRun, ...]


@dataclass(frozen=True)
class LatencyResult:
    """Everything that a latency measurement found.

    Args:
        model: The file that was timed.
        runtime: The runtime that ran it.
        device: The device it ran on.
        command: Command line of the measurement.
        time: Start of the measurement, ISO 8601 with the offset.
        runs: Runs in the order in which they were timed.
        fit: Line of time against β, for the first batch size.
        baseline: The baseline, or None.
        warnings: Reasons not to trust the times.
        partial: Whether runs are missing because of an interrupt or an error.
        error: The error that ended the measurement early, or None.
        source: The ONNX file that the model was built from, if the model is an engine.
        cuda_graph: Whether runs were launched as CUDA graphs.
        failures: Assertions and comparisons that failed, and what ended the measurement early.
        baseline_int8: The int8 version of the baseline, timed in the same blocks, or None.
        precision: Precision of the model in words, as in its manifest; None if it is not known.
    """

    model: ModelFile
    runtime: RuntimeInfo
    device: Device
    command: str
    time: str
    runs: tuple[RunResult, ...]
    fit: LinearFit
    baseline: Baseline | None = None
    warnings: tuple[str, ...] = ()
    partial: bool = False
    error: str | None = None
    source: ModelFile | None = None
    cuda_graph: bool = False
    failures: tuple[str, ...] = ()
    baseline_int8: Baseline | None = None
    precision: str | None = None

    @property
    def identity(self) -> str | None:
        """SHA-256 of the model that was timed: of the ONNX file, since engines are rebuilt."""
        return self.model.sha256 if self.source is None else self.source.sha256

    def to_json(self) -> JsonObject:
        """The JSON document."""
        return {"schema": SCHEMA, **asdict(self)}


class ResultNotWrittenError(OutputError):
    """A measurement is done, but its result or plot cannot be written.

    Args:
        error: Why it cannot be written.
        result: The result, so that it is not lost.
    """

    def __init__(self, error: OutputError, result: LatencyResult) -> None:
        super().__init__(str(error), error.hint)
        self.result = result
