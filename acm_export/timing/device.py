"""The device of a measurement, as far as the machine tells."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.machine import gpu as driver
from acm_export.machine import nvidia_smi
from acm_export.machine.processes import ProbeError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_MODEL_KEYS = ("model name", "Model", "Hardware")
_GPU_FIELDS = ("name", "compute_cap", "clocks.sm", "clocks.max.sm", "pstate", "driver_version")


@dataclass(frozen=True)
class Device:
    """The ``device`` of a result; None for what is not known.

    Args:
        name: Of the CPU or GPU.
        arch: x86_64, aarch64, or sm_87.
        clocks: Governor of the CPU, or clocks of the GPU before the measurement.
        power_mode: Performance state of the GPU, or the mode of a Jetson.
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
    """The first GPU, asked from ``nvidia-smi``, and from the CUDA driver and Jetson's tools where it says nothing."""
    try:
        rows = nvidia_smi.query(*_GPU_FIELDS, units=False, gpu=nvidia_smi.first_visible())
    except ProbeError:
        rows = []
    found = parse_gpu(rows[0]) if rows else Device(None, None)
    if found.name is None or found.arch is None:
        found = _named_by_driver(found)
    return replace(found, clocks=_jetson_clocks() or found.clocks, power_mode=_jetson_mode() or found.power_mode)


def parse_gpu(row: Sequence[str]) -> Device:
    """The fields that ``nvidia-smi`` was asked for; ``[N/A]`` becomes None."""
    name, capability, clock, highest, state, driver = (None if "N/A" in field else field for field in row)
    clocks = f"SM {clock} MHz of {highest or 'unknown'} MHz" if clock else None
    return Device(name, f"sm_{capability.replace('.', '')}" if capability else None, clocks, state, driver)


def _named_by_driver(found: Device) -> Device:
    cuda = driver.query_cuda()
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
