"""Report of a run: figures with limits, and the state of each part. The result file is rewritten after every figure.

A part that fails is recorded with the reason and does not stop the next. When time runs out, the rest is not run.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from common import print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from common import ResultFile

_LONGEST_REASON = 300


class OutOfTimeError(Exception):
    """The time for the whole run has passed."""


class UnavailableError(Exception):
    """This machine lacks something that a part needs, which the message names."""


@dataclass(frozen=True)
class Must:
    """A measured number and its limit.

    Args:
        measured: Measured number.
        limit: Largest allowed number, or the smallest.
        at_most: Whether ``limit`` is the largest.
    """

    measured: float
    limit: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        """Whether the number is within the limit; NaN never is."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{self.measured:.3f} {sign} {self.limit:g}: {'ok' if self.holds else 'miss'}"


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        part: Part that measured it.
        what: What was measured.
        us: Microseconds of one run, or None.
        ratio: Ratio to the same quantity of ``beside``, or None.
        beside: What ``ratio`` compares with.
        must: Limit, or None.
        facts: Further values, ready for JSON; ``failed`` or ``skipped`` holds the reason for a missing measurement.
    """

    part: str
    what: str
    us: float | None = None
    ratio: float | None = None
    beside: str = "dense"
    must: Must | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row for the result file."""
        row = asdict(self)
        if self.must:
            row["must"]["holds"] = self.must.holds
        return row


class Report:
    """Rows and states of parts, written to the result file immediately.

    Args:
        result: Result file.
        seconds: Time for the whole run. Afterwards no part starts, and the running one ends with its next row.
    """

    def __init__(self, result: ResultFile, seconds: float) -> None:
        self.rows: list[Row] = []
        self._result, self._parts = result, dict[str, dict[str, Any]]()
        self._end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until no further part starts."""
        return self._end - time.monotonic()

    @property
    def failed(self) -> bool:
        """Whether a part or a row failed."""
        return any(p["state"] == "failed" for p in self._parts.values()) or any("failed" in r.facts for r in self.rows)

    def add(self, row: Row) -> None:
        """Add a row and rewrite the file.

        Raises:
            OutOfTimeError: The row was written, but no time is left for another.
        """
        self.rows.append(row)
        self._result.add("rows", [row.to_json() for row in self.rows])
        if self.seconds_left <= 0:
            raise OutOfTimeError(f"stopped after: {row.what}")

    def attempt(self, name: str, part: Callable[[], None]) -> None:
        """Run a part and record its state: ``run``, ``failed``, ``cut short`` (out of time) or ``not run``."""
        start, reason = time.monotonic(), ""
        state = "run" if self.seconds_left > 0 else "not run"
        if state == "not run":
            reason = "out of time"
        else:
            try:
                part()
            except OutOfTimeError as error:
                state, reason = "cut short", str(error)
            except UnavailableError as error:
                state, reason = "not run", str(error)
            except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
                state, reason = "failed", reason_of(error)
                traceback.print_exc(limit=-4)
        seconds = time.monotonic() - start
        self._parts[name] = {"state": state, "seconds": round(seconds, 1), "reason": reason}
        self._result.add("parts", self._parts)
        print(f"--- {name}: {state}, {seconds:.1f} s. {reason}", file=sys.stderr, flush=True)
        gc.collect()
        if torch.cuda.is_available():
            with suppress(RuntimeError):  # a kernel that failed: every later call raises the same error
                torch.cuda.empty_cache()

    def show(self) -> None:
        """Print a line for each row, then the parts that did not finish."""
        print_table(
            "figures",
            ["what", "µs", "ratio", "must"],
            [
                [
                    r.what,
                    _number(r.us, ".1f"),
                    f"{r.ratio:.3f} ÷ {r.beside}" if r.ratio is not None else "",
                    str(r.must or _reason(r.facts)),
                ]
                for r in self.rows
            ],
        )
        for name, part in self._parts.items():
            if part["state"] != "run":
                print(f"{name}: {part['state']}: {part['reason']}")
        musts = [row.must for row in self.rows if row.must]
        print(f"{sum(must.holds for must in musts)} of {len(musts)} limits met")


def reason_of(error: BaseException) -> str:
    """Kind and first line of an error."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:_LONGEST_REASON]


def unmeasured(part: str, what: str, error: Exception) -> Row:
    """A row without a measurement: skipped if it takes too long or PyTorch lacks it, otherwise failed."""
    state = "skipped" if isinstance(error, TimeoutError | NotImplementedError) else "failed"
    return Row(part, what, facts={state: reason_of(error)})


def _reason(facts: dict[str, Any]) -> str:
    found = [f"{state}: {facts[state]}" for state in ("failed", "skipped") if state in facts]
    return found[0][:60] if found else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
