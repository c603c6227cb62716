"""Which other processes kept the machine busy, as far as the system shows them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROC = Path("/proc")
_UTIME, _STIME = 11, 12
"""Fields of /proc/PID/stat after the name, which may hold spaces and parentheses (proc_pid_stat(5))."""

LEAST_CORES = 0.1
MOST_NAMED = 3


@dataclass(frozen=True)
class Process:
    """A process: the name of its program, and the CPU seconds that it has used."""

    name: str
    seconds: float


def processes(folder: Path = _PROC) -> dict[int, Process]:
    """Processes by number; those that end meanwhile, or are not shown, are left out."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = ((int(path.name), _parsed(path, ticks)) for path in folder.glob("[0-9]*") if path.name.isdigit())
    return {number: process for number, process in found if process is not None}


def parse_process(text: str, ticks: int) -> Process | None:
    """The content of ``/proc/PID/stat``, or None where it is something else."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if len(fields) <= _STIME or not (fields[_UTIME].isdigit() and fields[_STIME].isdigit()):
        return None
    return Process(head.partition("(")[2], (int(fields[_UTIME]) + int(fields[_STIME])) / ticks)


def busiest(before: Mapping[int, Process], after: Mapping[int, Process], seconds: float, own: int) -> tuple[str, ...]:
    """The others that used a tenth of a core or more, in words, the busiest first, at most three.

    Args:
        before: At the beginning; a process that is not in it began later.
        after: At the end.
        seconds: In between.
        own: Number of this process, which is left out.
    """
    used = []
    for number, process in after.items():
        earlier = before.get(number, Process("", 0.0)).seconds
        cores = (process.seconds - earlier) / seconds if seconds > 0 else 0.0
        if number != own and cores >= LEAST_CORES:
            used.append((cores, number, process.name))
    return tuple(f"{name} (process {number}) {cores:.1f}" for cores, number, name in sorted(used)[::-1][:MOST_NAMED])


def _parsed(path: Path, ticks: int) -> Process | None:
    try:
        return parse_process((path / "stat").read_text(encoding="utf-8", errors="replace"), ticks)
    except OSError:
        return None
