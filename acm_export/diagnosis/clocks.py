"""Checks of clocks and power mode, which make latencies repeatable. Read-only."""

from __future__ import annotations

import shutil

from acm_export.machine import nvidia_smi
from acm_export.machine.finding import Finding
from acm_export.machine.processes import ProbeError

_UNKNOWN = "unknown"
_AS_ROOT = "sudo jetson_clocks --show"


def clocks() -> Finding:
    """Check the GPU clocks: current and highest, whether the GPU is throttled, on Jetson whether they are locked."""
    try:
        fixed = nvidia_smi.jetson_gpu_clocks()
        if fixed is not None:
            return _jetson_clocks(*fixed)
        rows = nvidia_smi.query_with_reasons("clocks.sm", "clocks.max.sm")
    except ProbeError as error:
        return _unknown("clocks", str(error), _AS_ROOT if shutil.which("jetson_clocks") else None)
    if not rows:
        return _unknown("clocks", "nvidia-smi and jetson_clocks are not installed, or show no GPU")
    slowed = sorted({reason for _, reasons in rows for reason in reasons if reason in nvidia_smi.HARMFUL})
    text = ", ".join(f"{row[0]} of at most {row[1]}" for row, _ in rows)
    if slowed:
        return Finding(
            "clocks", "wrong", f"{text}; throttled by {', '.join(slowed)}", "cool the GPU and check its power supply"
        )
    return Finding(
        "clocks",
        "ok",
        f"{text}; unknown whether they are locked",
        "to lock them: sudo nvidia-smi --lock-gpu-clocks=MHZ (undo: --reset-gpu-clocks)",
    )


def power_mode() -> Finding:
    """Check the power mode of a Jetson, or the power limit of a discrete GPU."""
    try:
        mode = nvidia_smi.jetson_power_mode()
        if mode is not None:
            if not mode:
                return _unknown("power mode", "nvpmodel does not show it")
            return Finding("power mode", "ok", mode, "to change it: sudo nvpmodel -m N (modes: /etc/nvpmodel.conf)")
        rows = nvidia_smi.query("power.limit", "power.max_limit")
    except ProbeError as error:
        return _unknown("power mode", str(error))
    if not rows:
        return _unknown("power mode", "nvidia-smi and nvpmodel are not installed, or show no GPU")
    return Finding("power mode", "ok", ", ".join(f"limit {row[0]} of at most {row[1]}" for row in rows))


def _jetson_clocks(low: int, high: int) -> Finding:
    if low < high:
        return Finding("clocks", "wrong", f"not locked: {low} to {high} MHz", "sudo jetson_clocks")
    return Finding("clocks", "ok", f"locked at {high} MHz")


def _unknown(name: str, why: str, fix: str | None = None) -> Finding:
    return Finding(name, "missing", f"{_UNKNOWN}: {why}", fix)
