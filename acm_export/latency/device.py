"""The device of a measurement, as far as the machine tells."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_MODEL_KEYS = ("model name", "Model", "Hardware")
_GPU_FIELDS = ("name", "compute_cap", "clocks.sm", "clocks.max.sm", "pstate", "driver_version")
_SECONDS = 10


@dataclass(frozen=True)
class Device:
    """The ``device`` of a result; None for what is not known.

    Args:
        name: Of the CPU or GPU.
        arch: x86_64, aarch64, or sm_87.
        clocks: Governor of the CPU, or clocks of the GPU before the measurement.
        power_mode: Performance state of the GPU.
        driver: Version.
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
    """The first GPU, asked from ``nvidia-smi``; without it nothing is known."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(  # noqa: S603  a fixed command
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Device(None, None)
    return parse_gpu(asked.stdout)


def parse_gpu(text: str) -> Device:
    """The first line that ``nvidia-smi`` prints for the fields asked for; ``[N/A]`` becomes None."""
    fields = [field.strip() for field in (text.splitlines() or [""])[0].split(",")]
    if len(fields) != len(_GPU_FIELDS):
        return Device(None, None)
    name, capability, clock, highest, state, driver = (None if "N/A" in field else field for field in fields)
    clocks = f"SM {clock} MHz of {highest or 'unknown'} MHz" if clock else None
    return Device(name, f"sm_{capability.replace('.', '')}" if capability else None, clocks, state, driver)


def governors(folder: Path = _CPUS) -> list[str]:
    """The frequency governors of the CPUs, without repetition; none where the system does not show them."""
    found = (_read(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return sorted({text.strip() for text in found if text})


def load_average() -> float | None:
    """Of the last minute, or None where the system does not tell."""
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
    """CPU seconds since some moment.

    Args:
        busy: Of everybody on the machine.
        stolen: That a hypervisor gave to other machines.
        own: Of this process.
    """

    busy: float
    stolen: float
    own: float


def cpu_use() -> CpuUse | None:
    """The counters of this moment, or None where the system does not show them."""
    text = _read(_STAT)
    if text is None:
        return None
    times = os.times()
    return parse_stat(text, os.sysconf("SC_CLK_TCK"), times.user + times.system)


def parse_stat(text: str, ticks: int, own: float) -> CpuUse | None:
    """The first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal."""
    fields = (text.splitlines() or [""])[0].split()
    if len(fields) < 9 or fields[0] != "cpu" or not all(field.isdigit() for field in fields[1:9]):
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) / ticks for field in fields[1:9])
    return CpuUse(user + nice + system + irq + softirq, steal, own)
