"""What else the GPU did, and what slowed it down: asked before anything is loaded, and after runs, under load."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from acm_export.machine import nvidia_smi
from acm_export.machine.processes import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


class GpuWatch:
    """Watches the GPU during a measurement; see :func:`watch_gpu`.

    Args:
        tenants: Other processes that held it before, in words.
        limits: What is set to be slower than it could be, in words.
    """

    def __init__(self, tenants: tuple[str, ...], limits: tuple[str, ...]) -> None:
        self.tenants, self._limits = tenants, limits
        self._slowed: dict[str, list[str]] = {}

    def look(self, run: str, load: Callable[[], object]) -> None:
        """See what slows the GPU down while a run is repeated, after its times were taken.

        Args:
            run: In words.
            load: Runs once; without load clocks fall, and nothing can be seen.
        """
        if shutil.which("nvidia-smi") is None:
            return
        load()  # before it is asked, too
        with ThreadPoolExecutor(1) as asking:
            reasons = asking.submit(_reasons)
            _keep_busy(load, reasons)
            for reason in reasons.result():
                self._slowed.setdefault(reason, []).append(run)

    def warnings(self) -> Iterator[str]:
        """What was seen."""
        if self.tenants:
            yield f"the GPU is not idle: {', '.join(self.tenants)} hold it, too"
        yield from self._limits
        for reason, runs in self._slowed.items():
            yield f"the GPU was slowed down by {reason} after {len(runs)} of the runs, first after {runs[0]}"


def watch_gpu() -> GpuWatch:
    """Ask who holds the first GPU, and how it is set; to be called before this process uses it."""
    try:
        others = nvidia_smi.tenants(nvidia_smi.first_visible())
        held = tuple(tenant.text for tenant in others if tenant.number != os.getpid())
    except ProbeError:
        held = ()
    return GpuWatch(held, tuple(_limits()))


def _limits() -> Iterator[str]:
    try:
        mode = nvidia_smi.jetson_power_mode()
        if mode and not mode.startswith("MAXN"):
            yield f"power mode is {mode}, which is not MAXN: clocks are lower than they could be (nvpmodel)"
        for row in nvidia_smi.query("power.limit", "power.max_limit", units=False, gpu=nvidia_smi.first_visible()):
            if (values := _numbers(row)) and values[0] < values[1]:
                yield f"power is limited to {values[0]:g} W of at most {values[1]:g} W (nvidia-smi --power-limit)"
    except ProbeError:
        return
    try:
        clocks = nvidia_smi.jetson_gpu_clocks()
        if clocks is not None and clocks[0] < clocks[1]:
            yield f"clocks are not fixed: those of the GPU go from {clocks[0]} to {clocks[1]} MHz (sudo jetson_clocks)"
    except ProbeError:
        return


def _reasons() -> tuple[str, ...]:
    """What slows the GPU down just now."""
    try:
        rows = nvidia_smi.query_with_reasons(gpu=nvidia_smi.first_visible())
    except ProbeError:
        return ()
    return tuple(sorted({reason for _, reasons in rows for reason in reasons if reason in nvidia_smi.SLOWING}))


def _keep_busy(load: Callable[[], object], until: Future[tuple[str, ...]]) -> None:
    while not until.done():
        load()


def _numbers(texts: list[str]) -> list[float]:
    """The numbers, or none where one is ``[N/A]``."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
