"""Time runs one after the other; an interrupt or an error keeps finished runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING

from acm_export.base import interrupts
from acm_export.base.errors import AcmError, LatencyError, first_line
from acm_export.timing.measure import measure
from acm_export.timing.measure_requests import RequestCalls, measure_requests
from acm_export.timing.reliability import Steadiness
from acm_export.timing.result import BaselineRun, RunResult
from acm_export.timing.statistics import percentiles, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.base.progress import Progress
    from acm_export.data.batches import Arrays
    from acm_export.timing.backends.backend import Backend, LoadedModel, RunContext, TimedFile
    from acm_export.timing.gpu_watch import GpuWatch
    from acm_export.timing.inputs import InputBatches
    from acm_export.timing.lengths import Lengths
    from acm_export.timing.measure import Call, Measurement
    from acm_export.timing.request import LatencyRequest
    from acm_export.timing.result import Percentiles
    from acm_export.timing.runs import Run
    from acm_export.timing.statistics import Statistics

_DEVICE_TIMES = ("device_ms", "enqueue_ms", "transfer_ms")
_DEBUG = "run again with --debug for the traceback"


class LoadedModels:
    """The file, its copy with thresholds as inputs, and the baselines; each is loaded when a run first needs it.

    Args:
        backend: Runtime of all of them.
        file: The file to time.
        baselines: Paths of the baselines.
        streams: Number of streams, each of which gets a context of its own.
    """

    def __init__(self, backend: Backend, file: TimedFile, baselines: Sequence[Path], streams: int) -> None:
        self._backend, self._file = backend, file
        self._baselines, self._streams = baselines, streams
        self._loaded: dict[str, tuple[LoadedModel, list[RunContext]]] = {}

    def calls(self, run: Run) -> list[Call]:
        """A call of the model for each stream, after one trial.

        Raises:
            LatencyError: The model does not run.
        """
        name = "file" if run.own_thresholds else "file with thresholds as inputs"
        feeds = [batch | run.controls for batch in run.inputs.batches]
        return _calls(self._contexts(name), feeds, self._file.path, run.inputs.middle)

    def baseline_calls(self, run: Run) -> list[list[Call]]:
        """For each baseline a call on the same inputs for each stream, after one trial.

        Raises:
            LatencyError: A baseline does not run.
        """
        inputs = run.inputs
        return [
            _calls(self._contexts(f"baseline {path}", path), inputs.batches, path, inputs.middle)
            for path in self._baselines
        ]

    def close(self) -> None:
        """Close all of them."""
        while self._loaded:
            model, contexts = self._loaded.popitem()[1]
            for context in contexts:
                context.close()
            model.close()

    def _contexts(self, name: str, baseline: Path | None = None) -> list[RunContext]:
        if name not in self._loaded:
            if baseline is not None:
                model = self._backend.load_baseline(baseline)
            else:
                model = self._backend.load(self._file, own_thresholds=name == "file")
            contexts: list[RunContext] = []
            self._loaded[name] = model, contexts  # before contexts are created, so that close() finds all of them
            contexts.extend(model.context() for _ in range(self._streams))
        return self._loaded[name][1]


def _calls(contexts: Sequence[RunContext], feeds: Sequence[Arrays], path: Path, middle: int | None) -> list[Call]:
    """A call for each context, which takes the feeds in turn; ``middle`` is given if they have different lengths."""
    try:
        for context in contexts:
            context.run(feeds[0])
    except AcmError:
        raise
    except Exception as error:  # the runtime's own types, with no common base but Exception
        raise LatencyError(f"{path} does not run on these inputs: {first_line(error)}", _DEBUG) from error
    if middle is not None:
        return [RequestCalls(context.run, feeds, middle) for context in contexts]
    return [map(context.run, cycle(feeds)).__next__ for context in contexts]


@dataclass
class TimedRuns:
    """The runs that were timed.

    Args:
        runs: Results of the model.
        baselines: Results of each baseline, one for each run.
        steadiness: How steady the times of each of them were.
        partial: Whether an interrupt or an error ended the measurement early.
        error: The error, or None after an interrupt.
    """

    runs: list[RunResult] = field(default_factory=list)
    baselines: list[list[BaselineRun]] = field(default_factory=list)
    steadiness: list[Steadiness] = field(default_factory=list)
    partial: bool = False
    error: AcmError | None = None


def time_runs(
    request: LatencyRequest,
    runs: Sequence[Run],
    models: LoadedModels,
    progress: Progress,
    gpu: GpuWatch | None = None,
) -> TimedRuns:
    """Time runs until all are done, or an interrupt or an error drops the current one and those after it.

    Args:
        request: How long to time each run, and which percentiles to take.
        runs: Runs to time.
        models: What the runs call.
        progress: Receives the name of each run; it must not draw while a run is timed.
        gpu: Checks after each run what throttles the GPU, or None.

    Raises:
        Interrupted: An interrupt before the first run was done.
        AcmError: A model failed before the first run was done.
    """
    timed = TimedRuns()
    for number, run in enumerate(runs, 1):
        name = f"run {number} of {len(runs)}: {run}"
        progress.stage(name, None)
        try:
            calls, baseline_calls = models.calls(run), models.baseline_calls(run)
            measured = _measure(request, calls, *baseline_calls)
            interrupts.check()
            _add_all(timed, request, run, *measured)
            if gpu is not None:
                whole = [result for result in timed.runs if result.is_whole]
                gpu.check_throttling(str(whole[-1]), calls[0])
        except BaseException as error:
            interrupted = isinstance(error, interrupts.Interrupted) or interrupts.received()
            if not interrupted and isinstance(error, Exception):
                failure = _named(error, name)
                if not timed.runs:
                    raise failure from error
                timed.partial, timed.error = True, failure
                return timed
            if not timed.runs or not interrupted:
                raise
            interrupts.clear()
            timed.partial = True
            return timed
    return timed


def _measure(request: LatencyRequest, *models: Sequence[Call]) -> tuple[Measurement, ...]:
    seconds, runs, warm_up = request.duration, request.runs, request.warm_up
    requests = [[call for call in calls if isinstance(call, RequestCalls)] for calls in models]
    if any(requests):
        return measure_requests(*requests, seconds=seconds, runs=runs, warm_up_seconds=warm_up)
    return measure(*models, seconds=seconds, runs=runs, warm_up_seconds=warm_up)


def _add_all(timed: TimedRuns, request: LatencyRequest, run: Run, *measurements: Measurement) -> None:
    """Add the results of a run: one, or those of all requests and of each bucket of their lengths."""
    inputs = run.inputs
    timed.baselines = timed.baselines or [[] for _ in measurements[1:]]
    if not inputs.buckets:
        p50, *others = (summarize(measurement.host_ms).p50 for measurement in measurements)
        ratios = [p50 / other for other in others]
        _add(timed, request, _Part(run, inputs, run.budget_measured), measurements, ratios)
        return
    requests = len(inputs.batches)
    times = [measurement.by_request(requests) for measurement in measurements]
    for bucket, budget in zip(inputs.buckets, run.bucket_budgets, strict=True):
        ratios = [median(times[0][i] / beside[i] for i in bucket.requests) for beside in times[1:]]
        found = [measurement.of(bucket.requests, requests) for measurement in measurements]
        _add(timed, request, _Part(run, inputs.of(bucket), budget, bucket.lengths), found, ratios)


@dataclass(frozen=True)
class _Part:
    """A run, or its requests of some lengths, with their β."""

    run: Run
    inputs: InputBatches
    budget: float | None
    lengths: Lengths | None = None


def _add(
    timed: TimedRuns,
    request: LatencyRequest,
    part: _Part,
    measurements: Sequence[Measurement],
    ratios: Sequence[float],
) -> None:
    measurement, *baselines = measurements
    result = RunResult(
        inputs=part.inputs.shapes,
        routing=part.run.routing,
        budget_requested=part.run.budget_requested,
        budget_measured=part.budget,
        host_ms=summarize(measurement.host_ms),
        **_device_times(measurement),
        streams=request.streams,
        throughput=measurement.runs_per_second * part.inputs.samples,
        percentiles=_percentiles(measurement, request.percentiles),
        lengths=part.lengths,
    )
    timed.runs.append(result)
    requests = 1 if part.lengths is None else part.lengths.requests
    names = ("the model", "the baseline", "the int8 baseline")
    if result.is_whole:
        timed.steadiness += [
            _steadiness(f"{name} ({result})", one, requests) for name, one in zip(names, measurements, strict=False)
        ]
    for baseline, ratio, results in zip(baselines, ratios, timed.baselines, strict=True):
        beside = BaselineRun(
            host_ms=summarize(baseline.host_ms),
            **_device_times(baseline),
            ratio=ratio,
            throughput=baseline.runs_per_second * part.inputs.samples,
            percentiles=_percentiles(baseline, request.percentiles),
        )
        results.append(beside)


def _device_times(measurement: Measurement) -> dict[str, Statistics | None]:
    reported = {name: measurement.reported_ms(name) for name in _DEVICE_TIMES}
    return {name: None if values is None else summarize(values) for name, values in reported.items()}


def _percentiles(measurement: Measurement, percents: Sequence[float]) -> Percentiles | None:
    if not percents:
        return None
    times = {"host_ms": measurement.host_ms, **{name: measurement.reported_ms(name) for name in _DEVICE_TIMES}}
    return {name: percentiles(values, percents) for name, values in times.items() if values is not None}


def _steadiness(name: str, measurement: Measurement, requests: int) -> Steadiness:
    """How steady the times are; those of different requests are compared with the median of the same request."""
    times = measurement.host_ms
    if requests > 1:
        medians = measurement.by_request(requests)
        times = tuple(value / (medians[place % requests] or 1.0) for place, value in enumerate(times))
    return Steadiness(name, summarize(times).variation, measurement.drift, measurement.warm_up.stable, len(times))


def _named(error: Exception, run: str) -> AcmError:
    """Wrap an error of a runtime's own type in one that names the run."""
    if isinstance(error, AcmError):
        return error
    return LatencyError(f"{run} failed: {type(error).__name__}: {first_line(error)}", _DEBUG)
