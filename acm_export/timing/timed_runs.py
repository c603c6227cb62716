"""Time runs one after the other; an interrupt or an error keeps finished runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from acm_export.base import interrupts
from acm_export.base.errors import AcmError, LatencyError, first_line
from acm_export.timing.measure import measure
from acm_export.timing.reliability import Steadiness
from acm_export.timing.result import BaselineRun, RunResult
from acm_export.timing.statistics import percentiles, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.base.progress import Progress
    from acm_export.timing.gpu_watch import GpuWatch
    from acm_export.timing.measure import Measurement
    from acm_export.timing.models import Models
    from acm_export.timing.request import LatencyRequest
    from acm_export.timing.result import Percentiles
    from acm_export.timing.runs import Run
    from acm_export.timing.statistics import Statistics
    from acm_export.timing.streams import Clock

_TIMES = ("device_ms", "enqueue_ms", "transfer_ms")


@dataclass
class TimedRuns:
    """The runs that were timed.

    Args:
        runs: Results of the model.
        baseline: Results of the baseline, one for each run; empty without a baseline.
        steadiness: How steady the times of each of them were.
        partial: Whether an interrupt or an error ended the measurement early.
        error: The error, or None after an interrupt.
    """

    runs: list[RunResult] = field(default_factory=list)
    baseline: list[BaselineRun] = field(default_factory=list)
    steadiness: list[Steadiness] = field(default_factory=list)
    partial: bool = False
    error: AcmError | None = None


def time_runs(
    runs: Sequence[Run],
    models: Models,
    request: LatencyRequest,
    clock: Clock,
    progress: Progress,
    gpu: GpuWatch | None = None,
) -> TimedRuns:
    """Time runs until all are done, or an interrupt or an error drops the current one and those after it.

    Args:
        runs: Runs to time.
        models: The loaded models.
        request: How long to time each run, and which percentiles to take.
        clock: Clock of the measurement.
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
            measurement, baseline = measure(calls, baseline_calls, request.timing, clock)
            interrupts.check()
            _add(timed, run, measurement, baseline, request)
            if gpu is not None:
                gpu.check_throttling(str(timed.runs[-1]), calls[0])
        except BaseException as error:
            interrupted = isinstance(error, interrupts.Interrupted) or interrupts.asked()
            if not interrupted and isinstance(error, Exception):
                failure = _named(error, name)
                if not timed.runs:
                    raise failure from error
                timed.partial, timed.error = True, failure
                return timed
            if not timed.runs or not interrupted:
                raise
            interrupts.answered()
            timed.partial = True
            return timed
    return timed


def _add(
    timed: TimedRuns, run: Run, measurement: Measurement, baseline: Measurement | None, request: LatencyRequest
) -> None:
    device_ms, enqueue_ms, transfer_ms = (_statistics(measurement.reported_ms(name)) for name in _TIMES)
    result = RunResult(
        run.inputs.shapes,
        run.routing,
        run.budget_requested,
        run.budget_measured,
        summarize(measurement.host_ms),
        device_ms,
        enqueue_ms,
        transfer_ms,
        request.streams,
        measurement.runs_per_second * run.inputs.samples,
        _percentiles(measurement, request.percentiles),
    )
    timed.runs.append(result)
    timed.steadiness.append(_steadiness(f"the model ({result})", measurement, result.host_ms))
    if baseline is None:
        return
    device_ms, enqueue_ms, transfer_ms = (_statistics(baseline.reported_ms(name)) for name in _TIMES)
    host_ms = summarize(baseline.host_ms)
    timed.baseline.append(
        BaselineRun(
            host_ms,
            device_ms,
            result.host_ms.p50 / host_ms.p50,
            enqueue_ms,
            transfer_ms,
            baseline.runs_per_second * run.inputs.samples,
            _percentiles(baseline, request.percentiles),
        )
    )
    timed.steadiness.append(_steadiness(f"the baseline ({result})", baseline, host_ms))


def _statistics(milliseconds: Sequence[float] | None) -> Statistics | None:
    return None if milliseconds is None else summarize(milliseconds)


def _percentiles(measurement: Measurement, percents: Sequence[float]) -> Percentiles | None:
    if not percents:
        return None
    times = {"host_ms": measurement.host_ms, **{name: measurement.reported_ms(name) for name in _TIMES}}
    return {name: percentiles(values, percents) for name, values in times.items() if values is not None}


def _steadiness(name: str, measurement: Measurement, host_ms: Statistics) -> Steadiness:
    return Steadiness(name, host_ms.variation, measurement.drift, measurement.warm_up.stable, host_ms.n)


def _named(error: Exception, run: str) -> AcmError:
    """Wrap an error of a runtime's own type in one that names the run."""
    if isinstance(error, AcmError):
        return error
    return LatencyError(
        f"{run} failed: {type(error).__name__}: {first_line(error)}", "run again with --debug for the traceback"
    )
