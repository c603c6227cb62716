"""Why a measurement is not to be trusted: warnings that name what was really seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.timing.device import CpuUse
    from acm_export.timing.result import RunResult

MOST_VARIATION = 0.025
MOST_DRIFT = 0.025
MOST_OTHERS = 0.1
"""Cores that others may use."""
MOST_LOAD = 0.5
"""Of the minute before: others, and what this process did to prepare."""
HOST_BOUND = 0.8
"""Enqueue ÷ device, from which on the device waits for the host; trtexec warns from there, too."""
LEAST_DEVICE = 0.5
"""Of host time, below which most of it passes elsewhere."""
FEWEST_RUNS = 100
"""Below, the 99th percentile is the maximum."""


@dataclass(frozen=True)
class Surroundings:
    """What else the machine did.

    Args:
        cores: That there are.
        load: Average of the minute before the process began its work, or None where the system does not tell.
        governors: Of the CPUs; none where the system does not show them.
        before: Counters when timing began, or None.
        after: When it ended, or None.
        seconds: In between.
        busiest: Other processes, in words, as far as the system shows them.
    """

    cores: int
    load: float | None
    governors: Sequence[str]
    before: CpuUse | None
    after: CpuUse | None
    seconds: float
    busiest: Sequence[str] = ()


def machine_warnings(seen: Surroundings) -> Iterator[str]:
    """Warnings about the machine."""
    if seen.load is not None and seen.load > MOST_LOAD:
        yield f"the machine was not idle: a load of {seen.load:.2f} on {seen.cores} cores before the measurement began"
    if seen.before is not None and seen.after is not None and seen.seconds > 0:
        own = seen.after.own - seen.before.own
        others = (seen.after.busy - seen.before.busy - own) / seen.seconds
        if others > MOST_OTHERS:
            named = f": {', '.join(seen.busiest)}" if seen.busiest else ""
            yield f"other processes used {others:.1f} of {seen.cores} cores during the measurement{named}"
        stolen = (seen.after.stolen - seen.before.stolen) / seen.seconds
        if stolen > MOST_OTHERS:
            yield f"the hypervisor took {stolen:.1f} of {seen.cores} cores away during the measurement"
    if loose := [name for name in seen.governors if name != "performance"]:
        yield f"clocks are not fixed: the CPU frequency governor is {', '.join(loose)}, not performance"


@dataclass(frozen=True)
class Shape:
    """How the times of one side of a run behaved.

    Args:
        what: For people: model or baseline, and the run.
        variation: std ÷ mean.
        drift: Last block ÷ first block, minus 1.
        settled: Whether the warm-up became stable.
        runs: Timed.
    """

    what: str
    variation: float
    drift: float
    settled: bool
    runs: int


def time_warnings(shapes: Sequence[Shape], *, clocks_known: bool) -> Iterator[str]:
    """Warnings about the times; the worst of each kind is named."""
    total = len(shapes)
    if loose := [shape for shape in shapes if shape.variation > MOST_VARIATION]:
        worst = max(loose, key=lambda shape: shape.variation)
        unknown = "" if clocks_known else "; whether clocks are fixed cannot be seen on this machine"
        yield (
            f"times vary: std / mean exceeds {MOST_VARIATION:.1%} in {len(loose)} of {total}, "
            f"{worst.variation:.1%} for {worst.what}{unknown}"
        )
    if drifted := [shape for shape in shapes if abs(shape.drift) > MOST_DRIFT]:
        worst = max(drifted, key=lambda shape: abs(shape.drift))
        yield (
            f"times drift: first and last block differ by more than {MOST_DRIFT:.1%} in {len(drifted)} of {total}, "
            f"by {worst.drift:+.1%} for {worst.what}"
        )
    if restless := [shape for shape in shapes if not shape.settled]:
        yield f"the warm-up did not become stable in {len(restless)} of {total}, as for {restless[0].what}"
    if few := [shape for shape in shapes if shape.runs < FEWEST_RUNS]:
        least = min(few, key=lambda shape: shape.runs)
        yield (
            f"p99 is the maximum where fewer than {FEWEST_RUNS} runs were timed: in {len(few)} of {total}, "
            f"{least.runs} for {least.what}; --duration or --runs makes them more"
        )


def device_warnings(runs: Sequence[RunResult], *, graph: bool = False) -> Iterator[str]:
    """Warnings about how host and device share the work, where the runtime tells; one of each kind.

    Args:
        runs: Of the model.
        graph: Whether they were launched as CUDA graphs.
    """
    total = len(runs)
    told = [(r, r.host_ms.p50, r.device_ms.p50) for r in runs if r.device_ms is not None]
    bound = [(r, r.enqueue_ms.p50, d) for r, _, d in told if r.enqueue_ms and r.enqueue_ms.p50 > HOST_BOUND * d]
    if bound:
        run, enqueue, on_device = max(bound, key=lambda found: found[1] / max(found[2], 1e-9))
        advice = (
            "a larger batch gives the device more to do"
            if graph
            else "a CUDA graph hands it over at once (--cuda-graph)"
        )
        yield (
            f"host-bound: in {len(bound)} of {total} the host takes about as long to hand the work over as the device "
            f"to do it, {enqueue:.3g} and {on_device:.3g} ms for {describe_run(run)}; {advice}"
        )
    if early := [(r, host, d) for r, host, d in told if host < d * (1 - MOST_VARIATION)]:
        run, host, on_device = early[0]
        yield (
            f"enqueue ahead: in {len(early)} of {total} the call returned before the device was done, after {host:.3g} "
            f"of {on_device:.3g} ms for {describe_run(run)}: host time is no latency"
        )
    known = {id(run) for run, _, _ in bound}
    shares = [(r, host, d + (r.transfer_ms.p50 if r.transfer_ms else 0)) for r, host, d in told if r.streams == 1]
    if slow := [(r, h, d) for r, h, d in shares if id(r) not in known and d < LEAST_DEVICE * h]:
        run, host, on_device = min(slow, key=lambda found: found[2] / found[1])
        yield (
            f"in {len(slow)} of {total} most of the host time passes outside the device: {host:.3g} ms, of which "
            f"{on_device:.3g} on the device and in transfers, for {describe_run(run)}"
        )


def describe_run(run: RunResult) -> str:
    """A run in words."""
    at = "" if run.budget_requested is None else f" at {run.budget_requested:g}"
    batch = "" if run.batch is None else f", batch {run.batch}"
    streams = "" if run.streams == 1 else f", {run.streams} streams"
    return f"{run.routing}{at}{batch}{streams}"
