"""The device of a measurement, and other load on its CPUs."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.machine import gpu as cuda_gpu
from acm_export.machine import nvidia_smi
from acm_export.machine.processes import ProbeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_PROC = Path("/proc")
_MODEL_KEYS = ("model name", "Model", "Hardware")
_GPU_FIELDS = ("name", "compute_cap", "clocks.sm", "clocks.max.sm", "pstate", "driver_version")
_UTIME, _STIME = 11, 12
"""Fields of /proc/PID/stat after the name, which may contain spaces and parentheses (proc_pid_stat(5))."""

_MIN_CORES = 0.1
_MAX_NAMED = 3


@dataclass(frozen=True)
class Device:
    """The ``device`` of a result; None for what is not known.

    Args:
        name: Name of the CPU or GPU.
        arch: Architecture: x86_64, aarch64, or sm_87.
        clocks: Governor of the CPU, or clocks of the GPU before the measurement.
        power_mode: Performance state of the GPU, or power mode of a Jetson.
        driver: Version of the driver.
    """

    name: str | None
    arch: str | None
    clocks: str | None = None
    power_mode: str | None = None
    driver: str | None = None


def cpu() -> Device:
    """The CPU of this machine."""
    found = governors()
    return Device(_cpu_name(), platform.machine() or None, f"governor {', '.join(found)}" if found else None)


def gpu() -> Device:
    """The first GPU: from ``nvidia-smi``, then from the CUDA driver and Jetson's tools."""
    try:
        rows = nvidia_smi.query(*_GPU_FIELDS, units=False, gpu=nvidia_smi.first_visible())
    except ProbeError:
        rows = []
    found = parse_gpu(rows[0]) if rows else Device(None, None)
    if found.name is None or found.arch is None:
        found = _named_by_driver(found)
    return replace(found, clocks=_jetson_clocks() or found.clocks, power_mode=_jetson_mode() or found.power_mode)


def parse_gpu(row: Sequence[str]) -> Device:
    """Parse a row of ``nvidia-smi``; ``[N/A]`` becomes None."""
    name, capability, clock, highest, state, driver = (None if "N/A" in field else field for field in row)
    clocks = f"SM {clock} MHz of {highest or 'unknown'} MHz" if clock else None
    return Device(name, f"sm_{capability.replace('.', '')}" if capability else None, clocks, state, driver)


def _named_by_driver(found: Device) -> Device:
    cuda = cuda_gpu.query_cuda()
    if not cuda.gpus:
        return found
    first = cuda.gpus[0]
    return replace(found, name=found.name or first.name, arch=found.arch or "sm_{}{}".format(*first.capability))


def _jetson_clocks() -> str | None:
    try:
        low_and_high = nvidia_smi.jetson_gpu_clocks()
    except ProbeError:
        return None
    if low_and_high is None:
        return None
    low, high = low_and_high
    return f"GPU fixed at {high} MHz" if low == high else f"GPU {low} to {high} MHz"


def _jetson_mode() -> str | None:
    try:
        return nvidia_smi.jetson_power_mode()
    except ProbeError:
        return None


def governors(folder: Path = _CPUS) -> list[str]:
    """The frequency governors of the CPUs, without repetition; empty if the system does not show them."""
    found = (_read(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return sorted({text.strip() for text in found if text})


def load_average() -> float | None:
    """Load average of the last minute, or None if the system does not report it."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _cpu_name() -> str | None:
    lines = (_read(_CPUINFO) or "").splitlines()
    pairs = [line.partition(":") for line in lines]
    return next((value.strip() for key, _, value in pairs if key.strip() in _MODEL_KEYS and value.strip()), None)


@dataclass(frozen=True)
class CpuUse:
    """CPU seconds used so far.

    Args:
        busy: CPU seconds of all processes on the machine.
        stolen: CPU seconds that the hypervisor gave to other machines.
        own: CPU seconds of this process.
    """

    busy: float
    stolen: float
    own: float


def cpu_use() -> CpuUse | None:
    """The CPU counters now, or None if the system does not show them."""
    text = _read(_STAT)
    if text is None:
        return None
    times = os.times()
    return parse_stat(text, os.sysconf("SC_CLK_TCK"), times.user + times.system)


def parse_stat(text: str, ticks: int, own: float) -> CpuUse | None:
    """Parse the first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal."""
    fields = (text.splitlines() or [""])[0].split()
    if len(fields) < 9 or fields[0] != "cpu" or not all(field.isdigit() for field in fields[1:9]):
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) / ticks for field in fields[1:9])
    return CpuUse(user + nice + system + irq + softirq, steal, own)


@dataclass(frozen=True)
class Process:
    """A process: its program name, and the CPU seconds that it has used."""

    name: str
    seconds: float


def processes(folder: Path = _PROC) -> dict[int, Process]:
    """Processes by id, except those that end during the reading or are not visible."""
    ticks = os.sysconf("SC_CLK_TCK")
    texts = ((int(path.name), _read(path / "stat")) for path in folder.glob("[0-9]*") if path.name.isdigit())
    found = ((number, parse_process(text or "", ticks)) for number, text in texts)
    return {number: process for number, process in found if process is not None}


def parse_process(text: str, ticks: int) -> Process | None:
    """Parse ``/proc/PID/stat``; None if the text has another form."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if len(fields) <= _STIME or not (fields[_UTIME].isdigit() and fields[_STIME].isdigit()):
        return None
    return Process(head.partition("(")[2], (int(fields[_UTIME]) + int(fields[_STIME])) / ticks)


def busiest(before: Mapping[int, Process], after: Mapping[int, Process], seconds: float, own: int) -> tuple[str, ...]:
    """Names of the other processes that used a tenth of a core or more, the busiest first, at most three.

    Args:
        before: Processes at the beginning; a process that is not among them started later.
        after: Processes at the end.
        seconds: Time in between.
        own: Id of this process, which is left out.
    """
    used = []
    for number, process in after.items():
        earlier = before.get(number, Process("", 0.0)).seconds
        cores = (process.seconds - earlier) / seconds if seconds > 0 else 0.0
        if number != own and cores >= _MIN_CORES:
            used.append((cores, number, process.name))
    return tuple(f"{name} (process {number}) {cores:.1f}" for cores, number, name in sorted(used)[::-1][:_MAX_NAMED])


@dataclass(frozen=True)
class Environment:
    """What the machine did during a measurement.

    Args:
        cores: Number of CPU cores.
        load: Load average of the minute before, or None if the system does not report it.
        governors: Frequency governors of the CPUs; empty if the system does not show them.
        before: CPU counters when timing began, or None.
        after: CPU counters when it ended, or None.
        seconds: Time in between.
        busiest: Other processes that used the CPUs.
    """

    cores: int
    load: float | None
    governors: Sequence[str]
    before: CpuUse | None
    after: CpuUse | None
    seconds: float
    busiest: Sequence[str] = ()


class EnvironmentWatch:
    """Observes the CPUs while runs are timed.

    Create it before any work: it takes the load average of the minute before.
    """

    def __init__(self) -> None:
        self._load = load_average()
        self._began, self._use, self._processes = 0.0, cpu_use(), dict[int, Process]()

    def start(self) -> None:
        """Start to observe."""
        self._processes, self._use, self._began = processes(), cpu_use(), time.perf_counter()

    def stop(self) -> Environment:
        """What was observed since the start."""
        after, seconds = cpu_use(), time.perf_counter() - self._began
        names = busiest(self._processes, processes(), seconds, os.getpid())
        return Environment(os.cpu_count() or 1, self._load, governors(), self._use, after, seconds, names)
