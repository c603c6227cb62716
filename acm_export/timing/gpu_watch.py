"""Other processes on the GPU, and what throttles it: queried before anything is loaded, and after runs, under load."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from acm_export.machine import nvidia_smi
from acm_export.machine.processes import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class GpuWatch:
    """Watches the GPU during a measurement; see :func:`watch_gpu`.

    Args:
        processes: Other processes that use the GPU.
        limits: Warnings about settings that limit its speed.
    """

    def __init__(self, processes: tuple[str, ...], limits: tuple[str, ...]) -> None:
        self.processes, self._limits = processes, limits
        self._throttled: dict[str, list[str]] = {}

    def check_throttling(self, run: str, call: Callable[[], object]) -> None:
        """Query what throttles the GPU while a run is repeated, after it was timed.

        Args:
            run: Description of the run.
            call: Runs the model once; without load clocks fall, and throttling is not visible.
        """
        if shutil.which("nvidia-smi") is None:
            return
        call()  # the query must find the GPU under load
        with ThreadPoolExecutor(1) as thread:
            reasons = thread.submit(_throttle_reasons)
            while not reasons.done():
                call()
            for reason in reasons.result():
                self._throttled.setdefault(reason, []).append(run)

    def warnings(self) -> Iterator[str]:
        """Warnings about everything that was observed."""
        if self.processes:
            yield f"the GPU is not idle: it is also used by {', '.join(self.processes)}"
        yield from self._limits
        for reason, runs in self._throttled.items():
            count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
            yield f"the GPU was throttled by {reason} after {count}, first after {runs[0]}"


def watch_gpu() -> GpuWatch:
    """Query the processes that use the first GPU, and its settings; call it before this process uses the GPU."""
    try:
        others = nvidia_smi.processes_on_gpu(nvidia_smi.first_visible())
        processes = tuple(process.text for process in others if process.number != os.getpid())
    except ProbeError:
        processes = ()
    return GpuWatch(processes, tuple(_limits()))


def _limits() -> Iterator[str]:
    try:
        mode = nvidia_smi.jetson_power_mode()
        if mode and not mode.startswith("MAXN"):
            yield f"the power mode is {mode}, not MAXN: clocks are limited (nvpmodel)"
        for row in nvidia_smi.query("power.limit", "power.max_limit", units=False, gpu=nvidia_smi.first_visible()):
            if (values := _numbers(row)) and values[0] < values[1]:
                yield f"power is limited to {values[0]:g} W of {values[1]:g} W (nvidia-smi --power-limit)"
    except ProbeError:
        return
    try:
        clocks = nvidia_smi.jetson_gpu_clocks()
        if clocks is not None and clocks[0] < clocks[1]:
            yield f"clocks are not fixed: the GPU runs at {clocks[0]} to {clocks[1]} MHz (sudo jetson_clocks)"
    except ProbeError:
        return


def _throttle_reasons() -> tuple[str, ...]:
    """What throttles the GPU now."""
    try:
        rows = nvidia_smi.query_with_reasons(gpu=nvidia_smi.first_visible())
    except ProbeError:
        return ()
    return tuple(sorted({reason for _, reasons in rows for reason in reasons if reason in nvidia_smi.SLOWING}))


def _numbers(texts: list[str]) -> list[float]:
    """The numbers, or an empty list if one is ``[N/A]``."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
