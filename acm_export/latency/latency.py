"""Time a file: every planned run beside the baseline, and the result; what was measured survives an interrupt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from acm_export import interrupts
from acm_export.files import sha256_of
from acm_export.latency import device
from acm_export.latency.causes import Shape, Surroundings, describe_run, machine_warnings, time_warnings
from acm_export.latency.measure import Timed, measure
from acm_export.latency.neighbours import busiest, processes
from acm_export.latency.result import Baseline, BaselineRun, ModelFile, Result, RunResult, RuntimeInfo
from acm_export.latency.routing import SKEWED
from acm_export.latency.runtime import version
from acm_export.latency.statistics import fit, summarize
from acm_export.runtimes.onnx_runtime import CudaSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from acm_export.latency.clock import Clock
    from acm_export.latency.measure import Effort
    from acm_export.latency.plan import Plan, PlannedRun
    from acm_export.latency.sides import Sides


@dataclass(frozen=True)
class Pair:
    """A run and its times, with those of the baseline."""

    run: RunResult
    timed: Timed
    baseline: Timed | None


@dataclass(frozen=True)
class Origin:
    """What a result says about where it comes from.

    Args:
        command: The command line.
        load: Average of the minute before the process began its work, or None.
        baseline: The baseline's file, or None.
    """

    command: str
    load: float | None
    baseline: Path | None


def time_file(
    planned: Plan,
    runs: Sequence[PlannedRun],
    sides: Sides,
    effort: Effort,
    clock: Clock,
    origin: Origin,
    tell: Callable[[str], None],
) -> Result:
    """Time every run.

    Args:
        planned: The file.
        runs: From :func:`acm_export.latency.plan.prepare`.
        sides: The loaded models.
        effort: Spent on each run, and as much on the baseline.
        clock: In seconds.
        origin: For the result.
        tell: Is told what comes next; nothing is drawn while time is taken.

    Returns:
        The result; marked as partial where an interrupt came after the first run was done.

    Raises:
        Interrupted: Before anything was measured.
        LatencyError: A model does not run.
    """
    model = ModelFile(str(planned.path), sha256_of(planned.path))
    beside = None if origin.baseline is None else ModelFile(str(origin.baseline), sha256_of(origin.baseline))
    place = device.gpu() if planned.session is CudaSession else device.cpu()
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    others, before, start = processes(), device.cpu_use(), clock.now()
    pairs, partial = time_runs(runs, sides, effort, clock, tell)
    after, seconds = device.cpu_use(), clock.now() - start
    named = busiest(others, processes(), seconds, os.getpid())
    seen = Surroundings(os.cpu_count() or 1, origin.load, device.governors(), before, after, seconds, named)
    warnings = [*input_warnings(runs), *machine_warnings(seen)]
    warnings += time_warnings(shapes(pairs), clocks_known=place.clocks is not None)
    results = tuple(pair.run for pair in pairs)
    first = runs[0].feeds.shapes
    line = fit(
        [
            (r.budget_measured, r.host_ms.p50)
            for r in results
            if r.inputs == first and r.routing != SKEWED and r.budget_measured is not None
        ]
    )
    baseline = None if beside is None else Baseline(beside, tuple(map(_baseline_run, pairs)))
    runtime = RuntimeInfo(**version(planned.session))
    return Result(
        model, runtime, place, origin.command, began, results, line, baseline, tuple(warnings), partial=partial
    )


def time_runs(
    runs: Sequence[PlannedRun], sides: Sides, effort: Effort, clock: Clock, tell: Callable[[str], None]
) -> tuple[list[Pair], bool]:
    """Time runs until an interrupt; the run that it falls into is dropped.

    Returns:
        What was measured, and whether an interrupt cut it short.

    Raises:
        Interrupted: Before anything was measured.
    """
    pairs: list[Pair] = []
    try:
        for index, run in enumerate(runs):
            at = "" if run.budget_requested is None else f" at {run.budget_requested:g}"
            tell(f"run {index + 1} of {len(runs)}: {run.routing}{at}, {_words(run.feeds.shapes)}")
            timed, beside = measure(sides.subject(run), sides.baseline(run), effort, clock)
            interrupts.check()
            pairs.append(Pair(_result(run, timed), timed, beside))
    except BaseException as error:
        if not pairs or not (isinstance(error, interrupts.Interrupted) or interrupts.asked()):
            raise
        interrupts.answered()
        return pairs, True
    return pairs, False


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


def _result(run: PlannedRun, timed: Timed) -> RunResult:
    on_device = None if timed.device_ms is None else summarize(timed.device_ms)
    return RunResult(
        run.feeds.shapes, run.routing, run.budget_requested, run.budget_measured, summarize(timed.host_ms), on_device
    )


def _baseline_run(pair: Pair) -> BaselineRun:
    if pair.baseline is None:
        raise ValueError("the baseline was not timed")
    host = summarize(pair.baseline.host_ms)
    on_device = None if pair.baseline.device_ms is None else summarize(pair.baseline.device_ms)
    return BaselineRun(host, on_device, pair.run.host_ms.p50 / host.p50)
