"""Time a file: every planned run beside the baseline, and the result; what was measured survives an interrupt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from acm_export.base import interrupts
from acm_export.base.errors import AcmError, LatencyError, first_line
from acm_export.base.files import sha256_of
from acm_export.timing import device
from acm_export.timing.causes import (
    Shape,
    Surroundings,
    describe_run,
    device_warnings,
    machine_warnings,
    time_warnings,
)
from acm_export.timing.measure import Timed, measure
from acm_export.timing.neighbours import busiest, processes
from acm_export.timing.plan import left_out
from acm_export.timing.result import Baseline, BaselineRun, ModelFile, Result, RunResult
from acm_export.timing.routing import SKEWED
from acm_export.timing.statistics import Statistics, fit, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from acm_export.timing.clock import Clock
    from acm_export.timing.gpu_watch import GpuWatch
    from acm_export.timing.measure import Effort
    from acm_export.timing.plan import Plan, PlannedRun
    from acm_export.timing.sides import Sides


@dataclass(frozen=True)
class Pair:
    """A run and its times, with those of the baseline."""

    run: RunResult
    timed: Timed
    baseline: Timed | None


@dataclass(frozen=True)
class Outcome:
    """What was timed.

    Args:
        pairs: The runs that were done.
        partial: Whether that is not all of them.
        error: What ended it, where that was an error; None after an interrupt.
    """

    pairs: tuple[Pair, ...]
    partial: bool = False
    error: AcmError | None = None


@dataclass(frozen=True)
class Origin:
    """What a result says about where it comes from.

    Args:
        command: The command line.
        load: Average of the minute before the process began its work, or None.
        baseline: The baseline's file or folder, with the digest that stands for it, or None.
        cuda_graph: Whether runs are launched as CUDA graphs.
        gpu: Watches the GPU, where it is used.
    """

    command: str
    load: float | None
    baseline: ModelFile | None = None
    cuda_graph: bool = False
    gpu: GpuWatch | None = None


def time_file(
    planned: Plan,
    runs: Sequence[PlannedRun],
    sides: Sides,
    effort: Effort,
    clock: Clock,
    origin: Origin,
    log: Callable[[str], None],
) -> Result:
    """Time every run.

    Args:
        planned: The file.
        runs: From :func:`acm_export.timing.plan.prepare`.
        sides: The loaded models.
        effort: Spent on each run, and as much on the baseline.
        clock: In seconds.
        origin: For the result.
        log: Receives the name of what comes next; nothing is drawn while time is taken.

    Returns:
        The result; marked as partial where an interrupt or an error came after the first run was done.

    Raises:
        Interrupted: Before anything was measured.
        AcmError: A model does not run, before anything was measured.
    """
    model = ModelFile(str(planned.file.path), sha256_of(planned.file.path))
    place = planned.backend.place()
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    others, before, start = processes(), device.cpu_use(), clock.now()
    outcome = time_runs(runs, sides, effort, clock, log, origin.gpu)
    after, seconds = device.cpu_use(), clock.now() - start
    named = busiest(others, processes(), seconds, os.getpid())
    seen = Surroundings(os.cpu_count() or 1, origin.load, device.governors(), before, after, seconds, named)
    warnings = [*input_warnings(runs), *left_out(planned, runs), *machine_warnings(seen)]
    warnings += origin.gpu.warnings() if origin.gpu is not None else ()
    warnings += time_warnings(shapes(outcome.pairs), clocks_known=place.clocks is not None)
    results = tuple(pair.run for pair in outcome.pairs)
    warnings += device_warnings(results, graph=origin.cuda_graph)
    first = runs[0].feeds.shapes
    line = fit(
        [
            (r.budget_measured, r.host_ms.p50)
            for r in results
            if r.inputs == first and r.routing != SKEWED and r.budget_measured is not None
        ]
    )
    baseline = None if origin.baseline is None else Baseline(origin.baseline, tuple(map(_baseline_run, outcome.pairs)))
    return Result(
        model, planned.backend.info(), place, origin.command, began, results, line, baseline, tuple(warnings),
        outcome.partial, None if outcome.error is None else str(outcome.error), planned.file.source, origin.cuda_graph,
    )  # fmt: skip


def time_runs(
    runs: Sequence[PlannedRun],
    sides: Sides,
    effort: Effort,
    clock: Clock,
    log: Callable[[str], None],
    gpu: GpuWatch | None = None,
) -> Outcome:
    """Time runs until an interrupt or an error; the run that it falls into is dropped.

    Args:
        runs: To time.
        sides: The loaded models.
        effort: Spent on each run.
        clock: In seconds.
        log: Receives the name of what comes next.
        gpu: Looks at the GPU after each run, or None.

    Raises:
        Interrupted: Before anything was measured.
        AcmError: A model does not run, before anything was measured.
    """
    pairs: list[Pair] = []
    for index, run in enumerate(runs):
        at = "" if run.budget_requested is None else f" at {run.budget_requested:g}"
        name = f"run {index + 1} of {len(runs)}: {run.routing}{at}, {_words(run.feeds.shapes)}"
        log(name)
        try:
            subject, baseline = sides.subject(run), sides.baseline(run)
            timed, beside = measure(subject, baseline, effort, clock)
            interrupts.check()
            pairs.append(Pair(_result(run, timed, len(subject)), timed, beside))
            if gpu is not None:
                gpu.look(describe_run(pairs[-1].run), subject[0])
        except BaseException as error:
            interrupted = isinstance(error, interrupts.Interrupted) or interrupts.asked()
            if not interrupted and isinstance(error, Exception):
                failure = _named(error, name)
                if not pairs:
                    raise failure from error
                return Outcome(tuple(pairs), partial=True, error=failure)
            if not pairs or not interrupted:
                raise
            interrupts.answered()
            return Outcome(tuple(pairs), partial=True)
    return Outcome(tuple(pairs))


def _named(error: Exception, run: str) -> AcmError:
    """The error that says in which run it came; a runtime has types of its own."""
    if isinstance(error, AcmError):
        return error
    return LatencyError(f"{run} failed: {type(error).__name__}: {first_line(error)}", "--debug shows everything")


def input_warnings(runs: Sequence[PlannedRun]) -> list[str]:
    """Whether the inputs say little about real ones."""
    if runs[0].feeds.source is None:
        return ["inputs are random: the gates route noise, not data; give real inputs with --data"]
    few = min(len(run.feeds.batches) for run in runs)
    return [] if few > 1 else [f"{runs[0].feeds.source} fills one batch only: every run has the same samples"]


def shapes(pairs: Sequence[Pair]) -> list[Shape]:
    """How the times of both sides behaved."""
    found = []
    for pair in pairs:
        for what, timed in (("the model", pair.timed), ("the baseline", pair.baseline)):
            if timed is not None:
                host = summarize(timed.host_ms)
                name = f"{what} ({describe_run(pair.run)})"
                found.append(Shape(name, host.variation, timed.drift, timed.warm_up.stable, host.n))
    return found


def _words(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _result(run: PlannedRun, timed: Timed, streams: int) -> RunResult:
    on_device, enqueue, transfer = _told(timed)
    return RunResult(
        run.feeds.shapes, run.routing, run.budget_requested, run.budget_measured, summarize(timed.host_ms), on_device,
        enqueue, transfer, streams, _throughput(timed, run.feeds.shapes),
    )  # fmt: skip


def _baseline_run(pair: Pair) -> BaselineRun:
    if pair.baseline is None:
        raise ValueError("the baseline was not timed")
    host = summarize(pair.baseline.host_ms)
    on_device, enqueue, transfer = _told(pair.baseline)
    throughput = _throughput(pair.baseline, pair.run.inputs)
    return BaselineRun(host, on_device, pair.run.host_ms.p50 / host.p50, enqueue, transfer, throughput)


def _told(timed: Timed) -> tuple[Statistics | None, Statistics | None, Statistics | None]:
    """Statistics of device, enqueue and transfer times, where the runtime told them."""
    told = (timed.told_ms(name) for name in ("device_ms", "enqueue_ms", "transfer_ms"))
    on_device, enqueue, transfer = (None if values is None else summarize(values) for values in told)
    return on_device, enqueue, transfer


def _throughput(timed: Timed, shapes: dict[str, list[int]]) -> float:
    """Samples per second."""
    return timed.runs_per_second * next(iter(shapes.values()))[0]
