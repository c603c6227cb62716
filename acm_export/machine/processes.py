"""Run probes and tools in other processes, so that a crash or hang becomes an error here."""

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
"""Seconds for one probe: the first import of PyTorch from a slow disk can take most of a minute."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from acm_export.machine import children; children.main(sys.argv[1:])"
)


class ProbeError(Exception):
    """A process gave no result; the message is the reason, in one line."""


@dataclass(frozen=True)
class ProcessOutput:
    """Output of a process.

    Args:
        value: Decoded JSON result of a probe; stdout of a tool as text.
        stderr: Output on stderr.
    """

    value: Any
    stderr: str


def probe(name: str, *arguments: str, timeout: float | None = None) -> ProcessOutput:
    """Run one of the probes of children.py in a new Python process with the same packages.

    Args:
        name: Name of the probe.
        arguments: Arguments of the probe.
        timeout: Seconds; :data:`TIMEOUT` by default.

    Raises:
        ProbeError: The process crashed, hung, raised an exception or printed no result.
    """
    # the parent's sys.path, without the working folder that -c adds
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), name, *arguments]
    stdout, stderr = _run(command, timeout or TIMEOUT)
    lines = stdout.strip().splitlines()
    try:
        return ProcessOutput(json.loads(lines[-1]), stderr)  # imported packages may print, too
    except (IndexError, ValueError) as error:
        raise ProbeError(f"no result: {lines[-1] if lines else 'no output'}") from error


def run_tool(name: str, *arguments: str, timeout: float = 20.0) -> ProcessOutput | None:
    """Run a command-line tool.

    Returns:
        Its output; None if it is not installed.

    Raises:
        ProbeError: The tool crashed, hung or failed.
    """
    path = shutil.which(name)
    if path is None:
        return None
    return ProcessOutput(*_run([path, *arguments], timeout))


def _run(command: Sequence[str], timeout: float) -> tuple[str, str]:
    """Stdout and stderr of a command that must end with exit code 0."""
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ProbeError(f"cannot start: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"no result within {timeout:g} s") from error
    finally:
        if process.poll() is None:  # hung, or this process is interrupted
            os.killpg(process.pid, signal.SIGKILL)  # and its children, which may keep its pipes open
            process.wait()
    if process.returncode:
        raise ProbeError(_reason(process.returncode, stdout, stderr))
    return stdout, stderr


def _reason(code: int, stdout: str, stderr: str) -> str:
    lines = [line.strip() for line in (stderr.strip() or stdout.strip()).splitlines()]
    if code < 0:
        names = {int(number): number.name for number in signal.Signals}
        return f"crashed with {names.get(-code, f'signal {-code}')}"
    return lines[-1] if lines else f"exited with code {code}"
