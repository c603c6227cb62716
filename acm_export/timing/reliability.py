"""Warnings about times that cannot be trusted, each with what was observed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.timing import routing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.timing.backends.backend import TimedFile
    from acm_export.timing.environment import Environment
    from acm_export.timing.result import RunResult
    from acm_export.timing.runs import Run

MAX_VARIATION = 0.025
MAX_DRIFT = 0.025
MAX_OTHERS = 0.1
"""Cores that other processes may use."""
MAX_LOAD = 0.5
"""Load average of the minute before: other processes, and the preparation of this one."""
HOST_BOUND = 0.8
"""Enqueue ÷ device time above which the device waits for the host; trtexec warns above the same ratio."""
MIN_DEVICE = 0.5
"""Share of host time below which most of it passes outside the device."""
TAIL = 99.0
"""The percentile that every result has."""


def input_warnings(file: TimedFile, runs: Sequence[Run]) -> Iterator[str]:
    """Warnings about the inputs, and about what is left out because the file does not allow it."""
    source = runs[0].inputs.source
    if source is None:
        yield "inputs are random: the gates route noise, not data; give real inputs with --data"
    elif min(len(run.inputs.batches) for run in runs) == 1:
        yield f"{source} fills only one batch: every run has the same samples"
    if not file.takes_thresholds:
        yield (
            "controlled routing (skewed, least, most) is left out: the engine takes no thresholds; build it with "
            "--threshold-inputs"
        )
    elif routing.can_be_skewed(file.manifest.layers) and all(run.routing != routing.SKEWED for run in runs):
        yield "skewed routing is left out: it needs gate logits; give the file the engine was built from with --onnx"
    if any(run.budget_measured is None for run in runs):
        yield (
            "β was not measured: the engine does not output learner counts; build it without --no-counts, or give the "
            "file it was built from with --onnx"
        )


def environment_warnings(environment: Environment) -> Iterator[str]:
    """Warnings about what the machine did."""
    if environment.load is not None and environment.load > MAX_LOAD:
        load, cores = environment.load, environment.cores
        yield f"the machine was not idle: load {load:.2f} on {cores} cores before the measurement"
    if environment.before is not None and environment.after is not None and environment.seconds > 0:
        own = environment.after.own - environment.before.own
        others = (environment.after.busy - environment.before.busy - own) / environment.seconds
        if others > MAX_OTHERS:
            names = f": {', '.join(environment.busiest)}" if environment.busiest else ""
            yield f"other processes used {others:.1f} of {environment.cores} cores during the measurement{names}"
        stolen = (environment.after.stolen - environment.before.stolen) / environment.seconds
        if stolen > MAX_OTHERS:
            yield f"the hypervisor took away {stolen:.1f} of {environment.cores} cores during the measurement"
    if governors := [name for name in environment.governors if name != "performance"]:
        yield f"clocks are not fixed: the CPU frequency governor is {', '.join(governors)}, not performance"


@dataclass(frozen=True)
class Steadiness:
    """How steady the times of a run or of its baseline were.

    Args:
        name: Model or baseline, and the run.
        variation: Coefficient of variation, std ÷ mean.
        drift: Median of the last block ÷ that of the first, minus 1.
        warmed_up: Whether times were stable at the end of the warm-up.
        runs: Number of timed runs.
    """

    name: str
    variation: float
    drift: float
    warmed_up: bool
    runs: int


def steadiness_warnings(
    measured: Sequence[Steadiness], *, clocks_known: bool, percentiles: Sequence[float] = ()
) -> Iterator[str]:
    """Warnings about unsteady times; each names the worst case.

    Args:
        measured: One for each run, and one for its baseline.
        clocks_known: Whether the machine shows its clocks.
        percentiles: Requested percentiles in addition to those that every result has.
    """
    total = len(measured)
    if varying := [one for one in measured if one.variation > MAX_VARIATION]:
        worst = max(varying, key=lambda one: one.variation)
        unknown = "" if clocks_known else "; this machine does not show whether its clocks are fixed"
        yield (
            f"times vary: std / mean exceeds {MAX_VARIATION:.1%} in {len(varying)} of {total}, "
            f"{worst.variation:.1%} for {worst.name}{unknown}"
        )
    if drifting := [one for one in measured if abs(one.drift) > MAX_DRIFT]:
        worst = max(drifting, key=lambda one: abs(one.drift))
        yield (
            f"times drift: the first and last block differ by more than {MAX_DRIFT:.1%} in {len(drifting)} of {total}, "
            f"{worst.drift:+.1%} for {worst.name}"
        )
    if unsettled := [one for one in measured if not one.warmed_up]:
        yield f"times were not stable after the warm-up in {len(unsettled)} of {total}, first for {unsettled[0].name}"
    for percent in (TAIL, *(p for p in percentiles if TAIL < p < 100)):
        needed = math.ceil(100 / (100 - percent) - 1e-9)
        if few := [one for one in measured if one.runs < needed]:
            fewest = min(few, key=lambda one: one.runs)
            yield (
                f"p{percent:g} is the maximum below {needed} timed runs: in {len(few)} of {total}, {fewest.runs} for "
                f"{fewest.name}; time more with --duration or --runs"
            )


def device_warnings(runs: Sequence[RunResult], *, cuda_graph: bool = False) -> Iterator[str]:
    """Warnings about how host and device share the work; one of each kind.

    Args:
        runs: Runs of the model.
        cuda_graph: Whether they were launched as CUDA graphs.
    """
    total = len(runs)
    reported = [(r, r.host_ms.p50, r.device_ms.p50) for r in runs if r.device_ms is not None]
    bound = [(r, r.enqueue_ms.p50, d) for r, _, d in reported if r.enqueue_ms and r.enqueue_ms.p50 > HOST_BOUND * d]
    if bound:
        run, enqueue, device = max(bound, key=lambda found: found[1] / max(found[2], 1e-9))
        advice = (
            "a larger batch gives the device more work"
            if cuda_graph
            else "--cuda-graph enqueues the work of a run at once"
        )
        yield (
            f"host-bound: in {len(bound)} of {total} the host takes about as long to enqueue the work as the device to "
            f"do it, {enqueue:.3g} and {device:.3g} ms for {run}; {advice}"
        )
    if early := [(r, host, d) for r, host, d in reported if host < d * (1 - MAX_VARIATION)]:
        run, host, device = early[0]
        yield (
            f"enqueue ahead: in {len(early)} of {total} the call returned before the device was done, after {host:.3g} "
            f"of {device:.3g} ms for {run}: host time is not latency here"
        )
    known = {id(run) for run, _, _ in bound}
    shares = [(r, host, d + (r.transfer_ms.p50 if r.transfer_ms else 0)) for r, host, d in reported if r.streams == 1]
    if slow := [(r, h, d) for r, h, d in shares if id(r) not in known and d < MIN_DEVICE * h]:
        run, host, device = min(slow, key=lambda found: found[2] / found[1])
        yield (
            f"in {len(slow)} of {total} most of the host time passes outside the device: {host:.3g} ms, of which "
            f"{device:.3g} ms on the device and in transfers, for {run}"
        )
