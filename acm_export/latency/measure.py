"""Timed runs in blocks; a baseline's blocks lie between those of the model, so that both see the same machine.

Each block begins with a pause (:data:`SETTLE_SECONDS`: worker threads of the other session spin on for some
milliseconds) and :data:`SETTLING_RUNS` runs that are not counted. Pairs of blocks alternate in order: model, baseline,
baseline, model, and so on, so that a steady drift weighs on both alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from acm_export.latency.warm_up import WarmUp, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from acm_export.latency.clock import Clock

    Subject = Callable[[], float | None]
    """Runs once, returns when the work is done, and says how many milliseconds the device took if it can tell."""

SETTLE_SECONDS = 0.03
SETTLING_RUNS = 2
MOST_BLOCKS = 8
FEWEST_BLOCKS = 2
BLOCK_RUNS = 5
"""Blocks are made fewer, down to two, where they would hold fewer runs than this."""


@dataclass(frozen=True)
class Effort:
    """How long to measure, for each side.

    Args:
        seconds: Of timed runs, where ``runs`` is None.
        runs: Timed runs.
    """

    seconds: float = 2.0
    runs: int | None = None

    def blocks(self, run_seconds: float) -> int:
        """Into how many blocks to cut, for runs that take about so long."""
        expected = self.runs if self.runs is not None else self.seconds / max(run_seconds, 1e-9)
        wanted = max(FEWEST_BLOCKS, min(MOST_BLOCKS, int(expected // BLOCK_RUNS)))
        return wanted if self.runs is None else min(wanted, self.runs)


@dataclass(frozen=True)
class Timed:
    """The times of one side.

    Args:
        blocks: Host milliseconds of each run, by block.
        device_ms: Device milliseconds of each run, or None where the runtime does not tell.
        warm_up: Before the first block.
    """

    blocks: tuple[tuple[float, ...], ...]
    device_ms: tuple[float, ...] | None
    warm_up: WarmUp

    @property
    def host_ms(self) -> tuple[float, ...]:
        """Of all runs, in the order in which they were made."""
        return tuple(value for block in self.blocks for value in block)

    @property
    def drift(self) -> float:
        """Median of the last block ÷ median of the first, minus 1."""
        first = median(self.blocks[0])
        return median(self.blocks[-1]) / first - 1 if first else 0.0


def measure(subject: Subject, baseline: Subject | None, effort: Effort, clock: Clock) -> tuple[Timed, Timed | None]:
    """Warm up, then time.

    Args:
        subject: The model.
        baseline: What it is held against, or None.
        effort: Spent on each of them.
        clock: In seconds.

    Returns:
        The times of the model, and of the baseline.
    """
    sides = [_Side(subject, clock)] + ([_Side(baseline, clock)] if baseline is not None else [])
    count = effort.blocks(sides[0].warm_up.run_seconds)
    for index in range(count):
        runs = None if effort.runs is None else effort.runs // count + (index < effort.runs % count)
        for side in sides if index % 2 == 0 else reversed(sides):
            side.block(effort.seconds / count, runs)
    timed = [side.timed() for side in sides]
    return timed[0], timed[1] if baseline is not None else None


class _Side:
    def __init__(self, subject: Subject, clock: Clock) -> None:
        self._subject, self._clock = subject, clock
        self._blocks: list[tuple[float, ...]] = []
        self._device: list[float | None] = []
        self.warm_up = warm_up(subject, clock)

    def block(self, seconds: float, runs: int | None) -> None:
        """Time until so many seconds have passed, or so many runs where they are given; at least one run."""
        self._clock.sleep(SETTLE_SECONDS)
        for _ in range(SETTLING_RUNS):
            self._subject()
        self._blocks.append(tuple(self._run(seconds, runs)))

    def _run(self, seconds: float, runs: int | None) -> Iterator[float]:
        now, subject, device = self._clock.now, self._subject, self._device
        began, done = now(), 0
        while True:
            start = now()
            device_ms = subject()
            end = now()
            done += 1
            device.append(device_ms)
            yield (end - start) * 1e3
            if done >= runs if runs is not None else end - began >= seconds:
                return

    def timed(self) -> Timed:
        told = [value for value in self._device if value is not None]
        return Timed(tuple(self._blocks), tuple(told) if len(told) == len(self._device) else None, self.warm_up)
