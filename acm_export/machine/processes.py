"""Asking other processes, so that what hangs or crashes is a finding and not the end of the doctor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 60.0
"""Seconds for one question: the first import of PyTorch from a slow disk takes the better part of a minute."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from acm_export.machine import children; children.main(sys.argv[1:])"
)


class ProbeError(Exception):
    """A process gave no answer; the message is the reason, in one line."""


@dataclass(frozen=True)
class Answer:
    """What a process said.

    Args:
        value: Decoded from JSON; text for :func:`run_tool`.
        stderr: What else it had to say.
    """

    value: Any
    stderr: str


def ask(question: str, *arguments: str, timeout: float | None = None) -> Answer:
    """Let a new Python that sees the same packages answer one of the questions of children.py.

    Args:
        question: Name of a function there.
        arguments: For it.
        timeout: Seconds; :data:`TIMEOUT` by default.

    Raises:
        ProbeError: It crashed, hung, raised an exception or answered nothing.
    """
    # the parent's search path, and not the working folder that -c puts first
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), question, *arguments]
    stdout, stderr = _run(command, timeout or TIMEOUT)
    lines = stdout.strip().splitlines()
    try:
        return Answer(json.loads(lines[-1]), stderr)  # what is imported may print, too
    except (IndexError, ValueError) as error:
        raise ProbeError(f"no answer: {lines[-1] if lines else 'nothing was written'}") from error


def run_tool(name: str, *arguments: str, timeout: float = 20.0) -> Answer | None:
    """Run a tool of the system.

    Returns:
        What it wrote; None where it is not installed.

    Raises:
        ProbeError: It crashed, hung or failed.
    """
    path = shutil.which(name)
    if path is None:
        return None
    return Answer(*_run([path, *arguments], timeout))


def _run(command: Sequence[str], timeout: float) -> tuple[str, str]:
    """Stdout and stderr of a command that ends by itself with exit code 0."""
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ProbeError(f"cannot be started: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"no answer within {timeout:g} s") from error
    finally:
        if process.poll() is None:  # hung, or we are interrupted
            os.killpg(process.pid, signal.SIGKILL)  # with what it started, which may hold its pipes
            process.wait()
    if process.returncode:
        raise ProbeError(_reason(process.returncode, stdout, stderr))
    return stdout, stderr


def _reason(code: int, stdout: str, stderr: str) -> str:
    lines = [line.strip() for line in (stderr.strip() or stdout.strip()).splitlines()]
    if code < 0:
        names = {int(number): number.name for number in signal.Signals}
        return f"crashed with {names.get(-code, f'signal {-code}')}"
    return lines[-1] if lines else f"ended with exit code {code}"
