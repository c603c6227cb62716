"""Clocks and power mode: what makes latencies repeatable. Nothing here is changed, only read."""

from __future__ import annotations

import shutil

from acm_export.machine import nvidia_smi
from acm_export.machine.finding import Finding
from acm_export.machine.processes import ProbeError

_UNKNOWN = "not known"
_AS_ROOT = "sudo jetson_clocks --show"


def clocks() -> Finding:
    """Clocks of the GPU: how fast, whether something slows it down, and on Jetson whether they are fixed."""
    try:
        fixed = nvidia_smi.jetson_gpu_clocks()
        if fixed is not None:
            return _jetson_clocks(*fixed)
        rows = nvidia_smi.query_with_reasons("clocks.sm", "clocks.max.sm")
    except ProbeError as error:
        return _unknown("clocks", str(error), _AS_ROOT if shutil.which("jetson_clocks") else None)
    if not rows:
        return _unknown("clocks", "neither nvidia-smi nor jetson_clocks is there, or they show no GPU")
    slowed = sorted({reason for _, reasons in rows for reason in reasons if reason in nvidia_smi.HARMFUL})
    text = ", ".join(f"{row[0]} of at most {row[1]}" for row, _ in rows)
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
        mode = nvidia_smi.jetson_power_mode()
        if mode is not None:
            if not mode:
                return _unknown("power mode", "nvpmodel does not say")
            return Finding("power mode", "ok", mode, "others: sudo nvpmodel -m N (listed in /etc/nvpmodel.conf)")
        rows = nvidia_smi.query("power.limit", "power.max_limit")
    except ProbeError as error:
        return _unknown("power mode", str(error))
    if not rows:
        return _unknown("power mode", "neither nvidia-smi nor nvpmodel is there, or they show no GPU")
    return Finding("power mode", "ok", ", ".join(f"limit {row[0]} of at most {row[1]}" for row in rows))


def _jetson_clocks(low: int, high: int) -> Finding:
    if low < high:
        return Finding("clocks", "wrong", f"not fixed: {low} to {high} MHz", "sudo jetson_clocks")
    return Finding("clocks", "ok", f"fixed at {high} MHz")


def _unknown(name: str, why: str, fix: str | None = None) -> Finding:
    return Finding(name, "missing", f"{_UNKNOWN}: {why}", fix)
