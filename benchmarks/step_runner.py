"""Run programs as steps of a check: each with a time limit, its output in a log, and no processes left behind.

A step runs in its own session. When its time is up, when the check is interrupted, and also when it ends by itself,
all remaining processes of its group are stopped. Output goes straight into the log file, so the output of a step that
is cut off is kept.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""

TIME_LEFT = "TIME_LEFT"
"""Placeholder in a command for the seconds after which the program starts nothing new."""

WIND_DOWN = 20.0
"""Seconds between that and the time limit: for the program's start, and for the work in progress."""

KEPT_LINES = 40
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/cuda/bin"
"""PATH for this check and its steps: CUDA's folder is often not on the PATH."""

_TAIL_BYTES = 1 << 18
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Step:
    """One program to run.

    Args:
        name: Unique among all steps of a check.
        command: Command to run in the checkout; :data:`TIME_LEFT` may be one of its arguments.
        share: Largest share of the stage's time that it may take, 1 for all remaining time.
        missing: Why the step cannot run here, or empty.
        needs: A file that an earlier step of the stage writes.
        environment: Variables to add to the environment.
    """

    name: str
    command: tuple[str, ...]
    share: float = 1.0
    missing: str = ""
    needs: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Result of a step.

    Args:
        stage: Stage of the step.
        name: Name of the step.
        state: ``passed``, ``failed``, ``cut off`` or ``not run``.
        reason: Why the step did not pass, or empty.
        seconds: Duration of the step.
        date: Time when it ended.
        log: Name of the file with all output, or empty.
        output: Last lines of the output.
    """

    stage: str
    name: str
    state: str
    reason: str
    seconds: float = 0.0
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    log: str = ""
    output: tuple[str, ...] = ()

    @property
    def is_failure(self) -> bool:
        """Whether this step makes the check fail."""
        return self.state in ("failed", "cut off")


class Interruption:
    """Remembers SIGINT, SIGTERM and SIGHUP, so that the running step is stopped and its result written."""

    number = 0

    def watch(self) -> None:
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._remember)

    @property
    def name(self) -> str:
        """``SIGINT`` and so on; empty without a signal."""
        return signal.Signals(self.number).name if self.number else ""

    def _remember(self, number: int, *_: Any) -> None:
        self.number = number


def run(step: Step, stage: str, seconds: float, log: Path, interruption: Interruption) -> Outcome:
    """Run a step and stop all of its processes.

    Args:
        step: Step to run; ``missing`` and ``needs`` were checked before.
        stage: Stage of the step.
        seconds: Time limit; stopping the step can take a few seconds more (:data:`GRACE`).
        log: File to append the output to.
        interruption: Ends the step early.

    Returns:
        The outcome, with the end of the output.
    """
    start = time.monotonic()
    time_left = f"{max(1.0, seconds - WIND_DOWN):.0f}"
    command = [time_left if part == TIME_LEFT else part for part in step.command]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PATH": SEARCH_PATH, **step.environment}
    with log.open("ab") as stream:
        stream.write(f"--- {step.name}\n".encode())
        stream.flush()
        begin = stream.tell()
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(stage, step.name, "failed", f"{step.command[0]} cannot be started: {error.strerror}")
        while process.poll() is None and time.monotonic() < start + seconds and not interruption.number:
            time.sleep(_POLL_SECONDS)
        code, elapsed = process.poll(), time.monotonic() - start
        _stop_group(process)
    if code is None:
        state, reason = "cut off", f"interrupted by {interruption.name}"
        if not interruption.number:
            reason = f"still running after {seconds:.0f} s"
    else:
        state, reason = ("failed", _ending(code)) if code else ("passed", "")
    output = last_lines(log, begin)
    return Outcome(stage, step.name, state, reason, round(elapsed, 1), log=log.name, output=output)


def last_lines(log: Path, begin: int = 0) -> tuple[str, ...]:
    """The last lines of a log after a byte offset, without terminal colours and without names of local folders."""
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(begin, size - _TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(str(ROOT), ".").replace(str(Path.home()), "~")
    return tuple(text.splitlines()[-KEPT_LINES:])


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop every process of the group; the leader may have ended already."""
    deadline = time.monotonic() + GRACE
    alive = _signal_group(process, signal.SIGTERM)
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        process.poll()  # a leader that was not waited for still counts as one of the group
        alive = _signal_group(process, 0)
    if alive:
        _signal_group(process, signal.SIGKILL)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} does not end; the driver may hang", flush=True)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group, 0 for none; returns whether it still has a process."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
