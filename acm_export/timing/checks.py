"""What a measurement has to hold: assertions on p99, and no regression against an earlier result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.calibration.budgets import parse_milliseconds
from acm_export.timing.causes import describe_run
from acm_export.timing.result import run_key
from acm_export.timing.result_file import read_result
from acm_export.timing.routing import DATA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from acm_export.timing.result import Result, RunResult

_SAME_BUDGET = 0.005
"""Two budgets that differ by less are the same, measured on the same inputs."""


@dataclass(frozen=True)
class Demands:
    """What a result is held against.

    Args:
        assertions: On p99.
        old: An earlier result, or None.
        old_path: Where it was read, or None.
        allowed: Share by which a median may grow against it.
    """

    assertions: tuple[Assertion, ...] = ()
    old: Result | None = None
    old_path: Path | None = None
    allowed: float = 0.05


def read_demands(assertions: Sequence[str], compare: Path | None, max_regression: str) -> Demands:
    """Demands as the command line states them.

    Raises:
        UsageError: One cannot be understood, or the earlier result not be read.
    """
    old = None if compare is None else read_result(compare)
    return Demands(tuple(map(parse_assertion, assertions)), old, compare, parse_percent(max_regression))


def failures(demands: Demands, result: Result) -> Iterator[str]:
    """What does not hold, in words."""
    yield from failed_assertions(demands.assertions, result.runs)
    if demands.old is not None:
        yield from regressions(demands.old, result, demands.allowed)


@dataclass(frozen=True)
class Assertion:
    """p99 of host time at a budget may not exceed so many milliseconds; at every setting where the budget is None."""

    milliseconds: float
    budget: float | None


def parse_assertion(text: str) -> Assertion:
    """An assertion such as ``4ms@0.5`` or ``4ms``.

    Raises:
        UsageError: It is none.
    """
    time, separator, budget = text.partition("@")
    try:
        return Assertion(parse_milliseconds(time), float(budget) if separator else None)
    except ValueError as error:
        raise UsageError(f"{budget!r} in {text!r} is no budget", "write it as 4ms@0.5") from error


def check_assertions(assertions: Sequence[Assertion], budgets: Collection[float | None]) -> None:
    """Refuse assertions on budgets that are not measured.

    Raises:
        UsageError: One is.
    """
    for assertion in assertions:
        if assertion.budget is not None and assertion.budget not in budgets:
            measured = ", ".join(f"{b:g}" for b in budgets if b is not None) or "none"
            raise UsageError(
                f"--assert-p99 names the budget {assertion.budget:g}, --budgets measures {measured}",
                "name the same budgets",
            )


def failed_assertions(assertions: Sequence[Assertion], runs: Sequence[RunResult]) -> Iterator[str]:
    """What does not hold, in words; every batch is held against an assertion, with the routing of the data."""
    for assertion in assertions:
        for run in runs:
            if run.routing != DATA or assertion.budget not in (None, run.budget_requested):
                continue
            if run.host_ms.p99 > assertion.milliseconds:
                yield f"p99 is {run.host_ms.p99:.4g} ms, asserted {assertion.milliseconds:g} ms: {describe_run(run)}"


def parse_percent(text: str) -> float:
    """A share such as ``5%`` or ``0.05``.

    Raises:
        UsageError: It is none.
    """
    stripped = text.strip()
    try:
        share = float(stripped.removesuffix("%")) / (100 if stripped.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise UsageError(f"{text!r} is no share", "write it as 5%")
    return share


def check_comparable(old: Result, old_path: Path, sha256: str | None, model: Path) -> None:
    """Refuse to compare with a measurement of another model; engines built from one ONNX file are one model.

    Args:
        old: The earlier result.
        old_path: Where it was read.
        sha256: Of the ONNX file, or of the engine where it is not known; None where neither is.
        model: What is measured.

    Raises:
        UsageError: It is one.
    """
    if None not in (old.identity, sha256) and old.identity != sha256:
        raise UsageError(
            f"{old_path} was measured on another model: sha256 {old.identity}, {model} has {sha256}",
            "compare results of one file",
        )


def check_common(old: Result, planned: Sequence[tuple[dict[str, list[int]], str, float | None, int]]) -> None:
    """Refuse to compare where no run can be compared, before anything is timed.

    Args:
        old: The earlier result.
        planned: Input shapes, routing, requested budget and streams of each run.

    Raises:
        UsageError: The earlier result has none of them.
    """
    if not {run.key for run in old.runs} & {run_key(*run) for run in planned}:
        raise UsageError(
            "the result to compare with has none of these runs", "measure the same budgets, batches and streams"
        )


def differences(old: Result, new: Result) -> Iterator[str]:
    """What besides the time is not the same in two results of one model."""
    if None in (old.identity, new.identity):
        yield "whether the result that is compared with is of the same model is not known: one of them names no file"
    for what, before, now in (
        ("runtime", _runtime(old), _runtime(new)),
        ("device", old.device.name, new.device.name),
        ("engine", old.model.sha256 if old.source else None, new.model.sha256 if new.source else None),
    ):
        if before != now:
            yield f"the result that is compared with comes from another {what}: {before}, now {now}"
    if old.partial:
        yield "the result that is compared with is partial"
    budgets = {run.key: run.budget_measured for run in old.runs}
    if moved := next((run for run in new.runs if _moved(budgets.get(run.key), run.budget_measured)), None):
        yield (
            f"{describe_run(moved)} ran β {moved.budget_measured:.3f}, before {budgets[moved.key]:.3f}: inputs or "
            "thresholds are others, and so is the work"
        )
    known = {run.key for run in old.runs}
    if new_runs := [run for run in new.runs if run.key not in known]:
        yield f"{len(new_runs)} of {len(new.runs)} runs have nothing to compare with, as {describe_run(new_runs[0])}"


def _moved(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and abs(now - before) > _SAME_BUDGET


def regressions(old: Result, new: Result, most: float) -> Iterator[str]:
    """Runs whose median grew by more than the share ``most``, in words."""
    before = {run.key: run for run in old.runs}
    both = [run for run in new.runs if run.key in before]
    for run in both:
        then = before[run.key].host_ms.p50
        if run.host_ms.p50 > then * (1 + most):
            growth = run.host_ms.p50 / then - 1 if then else float("inf")
            yield (
                f"the median went from {then:.4g} to {run.host_ms.p50:.4g} ms ({growth:+.1%}, allowed {most:+.1%}): "
                f"{describe_run(run)}"
            )


def _runtime(result: Result) -> str:
    info = result.runtime
    return f"{info.name} {info.version or ''} {info.provider}{', CUDA graphs' if result.cuda_graph else ''}"
