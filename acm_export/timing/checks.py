"""Checks of a result: assertions on p99, and no regression compared with an earlier result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.calibration.budgets import parse_milliseconds
from acm_export.timing.result_file import read_result
from acm_export.timing.routing import DATA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from acm_export.timing.result import LatencyResult, RunKey, RunResult

_SAME_BUDGET = 0.005
"""Budgets measured on the same inputs count as equal if they differ by less."""


@dataclass(frozen=True)
class Assertion:
    """An upper bound of p99 of host time, in milliseconds; for every budget if ``budget`` is None."""

    milliseconds: float
    budget: float | None


@dataclass(frozen=True)
class Checks:
    """What to check a result for.

    Args:
        assertions: Bounds of p99.
        old: Earlier result to compare with, or None.
        old_path: Path of the earlier result.
        max_regression: Share by which a run may be slower than before.
    """

    assertions: tuple[Assertion, ...] = ()
    old: LatencyResult | None = None
    old_path: Path | None = None
    max_regression: float = 0.05

    def check_budgets(self, budgets: Collection[float | None]) -> None:
        """Refuse assertions on budgets that are not timed.

        Raises:
            UsageError: An assertion names another budget.
        """
        for assertion in self.assertions:
            if assertion.budget is not None and assertion.budget not in budgets:
                timed = ", ".join(f"{b:g}" for b in budgets if b is not None) or "none"
                raise UsageError(
                    f"--assert-p99 names the budget {assertion.budget:g}; --budgets has {timed}",
                    "name the same budgets in --budgets and --assert-p99",
                )

    def check_model(self, model: Path, sha256: str | None) -> None:
        """Refuse to compare with a measurement of another model; engines built from one ONNX file are one model.

        Args:
            model: Path of the model that is timed.
            sha256: SHA-256 of the ONNX file, or of the engine if the ONNX file is not known; None if neither is.

        Raises:
            UsageError: The models differ.
        """
        before = None if self.old is None else self.old.identity
        if None not in (before, sha256) and before != sha256:
            raise UsageError(
                f"{self.old_path} was measured on another model: its sha256 is {before}, that of {model} is {sha256}",
                "compare results of the same model, or leave --compare out",
            )

    def check_runs(self, keys: Collection[RunKey]) -> None:
        """Refuse to compare if the earlier result has none of the runs that are to be timed.

        Raises:
            UsageError: There is no such run.
        """
        if self.old is not None and not {run.key for run in self.old.runs} & set(keys):
            raise UsageError(
                "the earlier result has none of these runs", "time the same budgets, batch sizes and streams as before"
            )


def read_checks(assertions: Sequence[str], compare: Path | None, max_regression: str | float) -> Checks:
    """Parse assertions and read the earlier result.

    Args:
        assertions: Assertions such as ``4ms@0.5``.
        compare: Path of the earlier result, or None.
        max_regression: Share such as ``5%`` or 0.05.

    Raises:
        UsageError: An assertion or share is not valid, or the earlier result cannot be read.
    """
    old = None if compare is None else read_result(compare)
    return Checks(tuple(map(parse_assertion, assertions)), old, compare, parse_percent(str(max_regression)))


def failures(checks: Checks, result: LatencyResult) -> Iterator[str]:
    """Checks that failed."""
    yield from failed_assertions(checks.assertions, result.runs)
    if checks.old is not None:
        yield from regressions(checks.old, result, checks.max_regression)


def parse_assertion(text: str) -> Assertion:
    """Parse an assertion such as ``4ms@0.5`` or ``4ms``.

    Raises:
        UsageError: The time or the budget is not a number.
    """
    time, separator, budget = text.partition("@")
    try:
        return Assertion(parse_milliseconds(time), float(budget) if separator else None)
    except ValueError as error:
        raise UsageError(f"{budget!r} in {text!r} is not a budget", "write the assertion as 4ms@0.5") from error


def failed_assertions(assertions: Sequence[Assertion], runs: Sequence[RunResult]) -> Iterator[str]:
    """Assertions that failed; each applies to every batch size, with the routing of the data, and to all lengths."""
    for assertion in assertions:
        for run in runs:
            if run.routing != DATA or not run.is_whole or assertion.budget not in (None, run.budget_requested):
                continue
            if run.host_ms.p99 > assertion.milliseconds:
                yield f"p99 is {run.host_ms.p99:.4g} ms, asserted {assertion.milliseconds:g} ms: {run}"


def parse_percent(text: str) -> float:
    """Parse a share such as ``5%`` or ``0.05``.

    Raises:
        UsageError: The text is not a share.
    """
    stripped = text.strip()
    try:
        share = float(stripped.removesuffix("%")) / (100 if stripped.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf") or (1 <= share <= 100 and not stripped.endswith("%")):
        raise UsageError(f"{text!r} is not a valid share", "write --max-regression as 5% or 0.05")
    return share


def differences(old: LatencyResult, new: LatencyResult) -> Iterator[str]:
    """Warnings about what differs between two results besides the times, and about what is compared."""
    if None in (old.identity, new.identity):
        yield "it is unknown whether the earlier result is for the same model: one of the results names no file"
    for what, before, now in (
        ("runtime", _runtime(old), _runtime(new)),
        ("device", old.device.name, new.device.name),
        ("engine", old.model.sha256 if old.source else None, new.model.sha256 if new.source else None),
        ("baseline", *_baseline_digests(old, new)),
    ):
        if before != now:
            yield f"the earlier result has another {what}: {before}, now {now}"
    if (old.baseline or new.baseline) and not compares_ratios(old, new):
        yield "times are compared, not ratios to the baseline: the two results have no baseline in common"
    if old.partial:
        yield "the earlier result is partial"
    budgets = {run.key: run.budget_measured for run in old.runs}
    if moved := next((run for run in new.runs if _moved(budgets.get(run.key), run.budget_measured)), None):
        yield (
            f"{moved} ran at β {moved.budget_measured:.3f}, earlier at {budgets[moved.key]:.3f}: its inputs or "
            "thresholds differ, and so does the work"
        )
    known = {run.key for run in old.runs}
    if new_runs := [run for run in new.runs if run.key not in known]:
        yield f"the earlier result lacks {len(new_runs)} of {len(new.runs)} runs; the first is {new_runs[0]}"


def _moved(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and abs(now - before) > _SAME_BUDGET


def compares_ratios(old: LatencyResult, new: LatencyResult) -> bool:
    """Whether ratios to the baseline can be compared: both results have one, the same unless it is an engine.

    Engines are rebuilt for each machine and TensorRT version, so their digest does not identify the model.
    """
    if old.baseline is None or new.baseline is None:
        return False
    engines = old.source is not None and new.source is not None
    return engines or old.baseline.model.sha256 == new.baseline.model.sha256


def regressions(old: LatencyResult, new: LatencyResult, max_regression: float) -> Iterator[str]:
    """Runs that are slower than before by more than a share; lengths are compared together, not by bucket.

    The ratio to the baseline is compared if both results have one, since it depends less on the machine's state;
    otherwise the median.

    Args:
        old: Earlier result.
        new: New result.
        max_regression: Share by which a run may be slower.
    """
    ratios = compares_ratios(old, new)
    what, unit = ("the ratio to the baseline", "") if ratios else ("the median", " ms")
    before = dict(zip((run.key for run in old.runs), _compared(old, ratios=ratios), strict=False))
    for run, now in zip(new.runs, _compared(new, ratios=ratios), strict=False):
        then = before.get(run.key)
        if run.is_whole and then is not None and now > then * (1 + max_regression):
            growth = now / then - 1 if then else float("inf")
            yield (
                f"{what} went from {then:.4g} to {now:.4g}{unit} ({growth:+.1%}, allowed {max_regression:+.1%}): {run}"
            )


def _compared(result: LatencyResult, *, ratios: bool) -> list[float]:
    if ratios and result.baseline is not None:
        return [run.ratio for run in result.baseline.runs]
    return [run.host_ms.p50 for run in result.runs]


def _runtime(result: LatencyResult) -> str:
    info = result.runtime
    return f"{info.name} {info.version or ''} {info.provider}{', CUDA graphs' if result.cuda_graph else ''}"


def _baseline_digests(old: LatencyResult, new: LatencyResult) -> tuple[str | None, str | None]:
    if old.baseline is None or new.baseline is None:
        return None, None
    return old.baseline.model.sha256, new.baseline.model.sha256
