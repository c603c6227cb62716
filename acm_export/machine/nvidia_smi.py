"""What ``nvidia-smi`` and Jetson's tools tell about GPUs; asked here alone. Nothing is changed, only read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from acm_export.machine.processes import ProbeError, run_tool

_FAMILY, _OLD_FAMILY = "clocks_event_reasons", "clocks_throttle_reasons"
"""The field of reasons, now and in older drivers."""

_REASONS = {
    0x001: "gpu_idle", 0x002: "applications_clocks_setting", 0x004: "sw_power_cap", 0x008: "hw_slowdown",
    0x010: "sync_boost", 0x020: "sw_thermal_slowdown", 0x040: "hw_thermal_slowdown", 0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}  # fmt: skip
"""Bits of the reasons why clocks are as they are (nvml.h: nvmlClocksThrottleReason...), as nvidia-smi names them."""

HARMFUL = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
"""That slow a GPU down at any time."""

SLOWING = (*HARMFUL, "hw_slowdown", "sw_power_cap", "sync_boost")
"""That slow it down under load; a power cap is no fault, but it makes times depend on what was before."""


@dataclass(frozen=True)
class Tenant:
    """A process that holds memory of a GPU; numbers are those of the host, which a container does not share."""

    number: int
    name: str
    memory: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.name} (process {self.number}, {self.memory})"


def first_visible() -> str:
    """The GPU that CUDA calls the first, as ``nvidia-smi --id`` takes it: an index or a UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return visible if visible.isdigit() or visible.startswith("GPU-") else "0"


def query(*fields: str, units: bool = True, gpu: str | None = None) -> list[list[str]]:
    """Fields of every GPU, or of one; no rows where ``nvidia-smi`` is not there.

    Args:
        fields: As ``nvidia-smi --help-query-gpu`` lists them.
        units: Whether values come with theirs.
        gpu: As of :func:`first_visible`, or None for all.

    Raises:
        ProbeError: It fails, or does not know a field.
    """
    written = "--format=csv,noheader" if units else "--format=csv,noheader,nounits"
    told = run_tool("nvidia-smi", f"--query-gpu={','.join(fields)}", written, *_only(gpu))
    return [] if told is None else _rows(told.value, len(fields))


def query_with_reasons(
    *fields: str, gpu: str | None = None, family: str = _FAMILY
) -> list[tuple[list[str], tuple[str, ...]]]:
    """Fields of every GPU, or of one, and the reasons why its clocks are as they are.

    Args:
        fields: As of :func:`query`.
        gpu: Likewise.
        family: Of the field of reasons, which older drivers name otherwise.

    Raises:
        ProbeError: As of :func:`query`.
    """
    try:
        return [(row[:-1], parse_reasons(row[-1])) for row in query(*fields, f"{family}.active", gpu=gpu)]
    except ProbeError as error:
        if family == _OLD_FAMILY or "not a valid field" not in str(error):
            raise
    return query_with_reasons(*fields, gpu=gpu, family=_OLD_FAMILY)


def parse_reasons(text: str) -> tuple[str, ...]:
    """Names of a bit mask such as ``0x0000000000000004``; none where it is ``[N/A]``."""
    try:
        mask = int(text, 16)
    except ValueError:
        return ()
    return tuple(name for bit, name in _REASONS.items() if mask & bit)


def tenants(gpu: str | None = None) -> list[Tenant]:
    """Processes that compute on any GPU, or on one.

    Args:
        gpu: As of :func:`first_visible`, or None for all.

    Raises:
        ProbeError: ``nvidia-smi`` fails.
    """
    fields = "pid,process_name,used_memory"
    told = run_tool("nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader", *_only(gpu))
    rows = [] if told is None else _rows(told.value, 3)
    return [Tenant(int(row[0]), row[1], row[2]) for row in rows if row[0].isdigit()]


def jetson_power_mode() -> str | None:
    """The mode that ``nvpmodel`` names, as in ``MAXN``; empty where it does not say, None where it is not there.

    Raises:
        ProbeError: It fails.
    """
    told = run_tool("nvpmodel", "-q")
    if told is None:
        return None
    mode = re.search(r"NV Power Mode:\s*(\S+)", told.value)
    return mode[1] if mode else ""


def jetson_gpu_clocks() -> tuple[int, int] | None:
    """Lowest and highest MHz that ``jetson_clocks`` shows for the GPU, equal where they are fixed; None elsewhere.

    Raises:
        ProbeError: It fails, as it does without root, or does not say.
    """
    told = run_tool("jetson_clocks", "--show")
    if told is None:
        return None
    found = re.search(r"^GPU\b.*?MinFreq=(\d+).*?MaxFreq=(\d+)", told.value, re.MULTILINE)
    if found is None:
        raise ProbeError("jetson_clocks --show does not say (it needs root)")
    return int(found[1]) // 10**6, int(found[2]) // 10**6


def _only(gpu: str | None) -> list[str]:
    return [] if gpu is None else [f"--id={gpu}"]


def _rows(text: str, width: int) -> list[list[str]]:
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if len(row) == width]
