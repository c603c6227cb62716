"""Clocks, power and processes of GPUs, from ``nvidia-smi`` and Jetson's tools. Read-only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from acm_export.machine.processes import ProbeError, run_tool

_REASON_FIELD, _OLD_REASON_FIELD = "clocks_event_reasons", "clocks_throttle_reasons"
"""Field with the clock event reasons, in current and in older drivers."""

_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of the clock event reasons (nvml.h: nvmlClocksThrottleReason...), by the names that nvidia-smi uses."""

HARMFUL = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
"""Reasons that mean a problem whenever they appear."""

SLOWING = (*HARMFUL, "hw_slowdown", "sw_power_cap", "sync_boost")
"""Reasons that slow a GPU down under load. A power cap is normal, but makes times depend on what ran before."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses GPU memory; ``number`` is its process id on the host, not in a container."""

    number: int
    name: str
    memory: str

    @property
    def text(self) -> str:
        """One line for people."""
        return f"{self.name} (process {self.number}, {self.memory})"


def first_visible() -> str:
    """CUDA's first GPU, in the form that ``nvidia-smi --id`` takes: an index or a UUID."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return visible if visible.isdigit() or visible.startswith("GPU-") else "0"


def query(*fields: str, units: bool = True, gpu: str | None = None) -> list[list[str]]:
    """Query fields of every GPU, or of one.

    Args:
        fields: Field names, as ``nvidia-smi --help-query-gpu`` lists them.
        units: Whether values include their units.
        gpu: One GPU, in the form of :func:`first_visible`; None for all.

    Returns:
        One row per GPU; no rows without ``nvidia-smi``.

    Raises:
        ProbeError: ``nvidia-smi`` fails, or does not know a field.
    """
    form = "--format=csv,noheader" if units else "--format=csv,noheader,nounits"
    output = run_tool("nvidia-smi", f"--query-gpu={','.join(fields)}", form, *_only(gpu))
    return [] if output is None else _rows(output.value, len(fields))


def query_with_reasons(
    *fields: str, gpu: str | None = None, reason_field: str = _REASON_FIELD
) -> list[tuple[list[str], tuple[str, ...]]]:
    """Query fields and the clock event reasons of every GPU, or of one.

    Args:
        fields: Field names, as for :func:`query`.
        gpu: One GPU, in the form of :func:`first_visible`; None for all.
        reason_field: Field with the reasons; older drivers have another name for it.

    Raises:
        ProbeError: ``nvidia-smi`` fails, or does not know a field.
    """
    try:
        return [(row[:-1], parse_reasons(row[-1])) for row in query(*fields, f"{reason_field}.active", gpu=gpu)]
    except ProbeError as error:
        if reason_field == _OLD_REASON_FIELD or "not a valid field" not in str(error):
            raise
    return query_with_reasons(*fields, gpu=gpu, reason_field=_OLD_REASON_FIELD)


def parse_reasons(text: str) -> tuple[str, ...]:
    """Reasons in a bit mask such as ``0x0000000000000004``; none for ``[N/A]``."""
    try:
        mask = int(text, 16)
    except ValueError:
        return ()
    return tuple(name for bit, name in _REASONS.items() if mask & bit)


def processes_on_gpu(gpu: str | None = None) -> list[GpuProcess]:
    """Processes that use any GPU for compute, or one.

    Args:
        gpu: One GPU, in the form of :func:`first_visible`; None for all.

    Raises:
        ProbeError: ``nvidia-smi`` fails.
    """
    fields = "pid,process_name,used_memory"
    output = run_tool("nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader", *_only(gpu))
    rows = [] if output is None else _rows(output.value, 3)
    return [GpuProcess(int(row[0]), row[1], row[2]) for row in rows if row[0].isdigit()]


def jetson_power_mode() -> str | None:
    """Power mode of a Jetson, as in ``MAXN``; empty if ``nvpmodel`` does not show it, None without ``nvpmodel``.

    Raises:
        ProbeError: ``nvpmodel`` fails.
    """
    output = run_tool("nvpmodel", "-q")
    if output is None:
        return None
    mode = re.search(r"NV Power Mode:\s*(\S+)", output.value)
    return mode[1] if mode else ""


def jetson_gpu_clocks() -> tuple[int, int] | None:
    """Lowest and highest GPU clock in MHz, equal if it is locked; None without ``jetson_clocks``.

    Raises:
        ProbeError: ``jetson_clocks`` fails, as it does without root, or does not show the clocks.
    """
    output = run_tool("jetson_clocks", "--show")
    if output is None:
        return None
    found = re.search(r"^GPU\b.*?MinFreq=(\d+).*?MaxFreq=(\d+)", output.value, re.MULTILINE)
    if found is None:
        raise ProbeError("jetson_clocks --show does not show the GPU clocks (it needs root)")
    return int(found[1]) // 10**6, int(found[2]) // 10**6


def _only(gpu: str | None) -> list[str]:
    return [] if gpu is None else [f"--id={gpu}"]


def _rows(text: str, width: int) -> list[list[str]]:
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if len(row) == width]
