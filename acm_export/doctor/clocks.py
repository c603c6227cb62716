"""Clocks and power mode: what makes latencies repeatable. Nothing here is changed, only read."""

from __future__ import annotations

import re
import shutil

from acm_export.doctor.finding import Finding
from acm_export.doctor.processes import ProbeError, run_tool

_UNKNOWN = "not known"
_AS_ROOT = "sudo jetson_clocks --show"
_OLD_FAMILY = "clocks_throttle_reasons"
_THROTTLES = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


def clocks() -> Finding:
    """Clocks of the GPU: how fast, whether something slows it down, and on Jetson whether they are fixed."""
    try:
        told = run_tool("jetson_clocks", "--show")
        if told is not None:
            return _jetson_clocks(told.value)
        rows = _discrete_clocks()
    except ProbeError as error:
        return _unknown("clocks", str(error), _AS_ROOT if shutil.which("jetson_clocks") else None)
    if not rows:
        return _unknown("clocks", "neither nvidia-smi nor jetson_clocks is there, or they show no GPU")
    slowed = sorted({reason for row in rows for reason, value in zip(_THROTTLES, row[2:], strict=False)
                     if value == "Active"})  # fmt: skip
    text = ", ".join(f"{row[0]} of at most {row[1]}" for row in rows)
    if slowed:
        return Finding(
            "clocks", "wrong", f"{text}; slowed down by {', '.join(slowed)}", "cool the GPU, check its power"
        )
    return Finding(
        "clocks", "ok", f"{text}; whether they are fixed is not known",
        "to fix them: sudo nvidia-smi --lock-gpu-clocks=MHZ (undo: --reset-gpu-clocks)",
    )  # fmt: skip


def power_mode() -> Finding:
    """The power mode of a Jetson, the power limit of a discrete GPU."""
    try:
        told = run_tool("nvpmodel", "-q")
        if told is not None:
            mode = re.search(r"NV Power Mode:\s*(\S+)", told.value)
            if mode is None:
                return _unknown("power mode", "nvpmodel does not say")
            return Finding("power mode", "ok", mode[1], "others: sudo nvpmodel -m N (listed in /etc/nvpmodel.conf)")
        rows = _query("power.limit", "power.max_limit")
    except ProbeError as error:
        return _unknown("power mode", str(error))
    if not rows:
        return _unknown("power mode", "neither nvidia-smi nor nvpmodel is there, or they show no GPU")
    return Finding("power mode", "ok", ", ".join(f"limit {row[0]} of at most {row[1]}" for row in rows))


def _jetson_clocks(text: str) -> Finding:
    found = re.search(r"^GPU\b.*?MinFreq=(\d+).*?MaxFreq=(\d+)", text, re.MULTILINE)
    if found is None:
        return _unknown("clocks", "jetson_clocks --show does not say (it needs root)", _AS_ROOT)
    low, high = (int(value) // 10**6 for value in found.groups())
    if low < high:
        return Finding("clocks", "wrong", f"not fixed: {low} to {high} MHz", "sudo jetson_clocks")
    return Finding("clocks", "ok", f"fixed at {high} MHz")


def _discrete_clocks(family: str = "clocks_event_reasons") -> list[list[str]]:
    """Clock, its maximum and whether each of _THROTTLES is active."""
    try:
        return _query("clocks.sm", "clocks.max.sm", *(f"{family}.{reason}" for reason in _THROTTLES))
    except ProbeError as error:
        if family == _OLD_FAMILY or "not a valid field" not in str(error):
            raise
    return _discrete_clocks(_OLD_FAMILY)


def _query(*fields: str) -> list[list[str]]:
    """One row a GPU from nvidia-smi; none where it is not there."""
    told = run_tool("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    if told is None:
        return []
    rows = [[value.strip() for value in line.split(",")] for line in told.value.splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def _unknown(name: str, why: str, mend: str | None = None) -> Finding:
    return Finding(name, "missing", f"{_UNKNOWN}: {why}", mend)
