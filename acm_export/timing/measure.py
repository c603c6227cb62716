"""Timed runs in blocks; a baseline's blocks lie between those of the model, so that both see the same machine.

Each block begins with a pause (:data:`SETTLE_SECONDS`: worker threads of the other session spin on for some
milliseconds) and :data:`SETTLING_RUNS` runs that are not counted. Pairs of blocks alternate in order: model, baseline,
baseline, model, and so on, so that a steady drift weighs on both alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from acm_export.timing.streams import Streams
from acm_export.timing.warm_up import WarmUp, warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.timing.clock import Clock
    from acm_export.timing.runtime import Times
    from acm_export.timing.streams import Run

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
        runs: Timed runs of each stream.
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
        blocks: Host milliseconds of each run, by block; those of several streams one after the other.
        told: What the runtime told about each run, in the same order.
        seconds: That all blocks took together, from the first start to the last end of each.
        warm_up: Before the first block.
    """

    blocks: tuple[tuple[float, ...], ...]
    told: tuple[Times, ...]
    seconds: float
    warm_up: WarmUp

    @property
    def host_ms(self) -> tuple[float, ...]:
        """Of all runs, in the order of ``blocks``."""
        return tuple(value for block in self.blocks for value in block)

    def told_ms(self, name: str) -> tuple[float, ...] | None:
        """One of the times of :class:`Times` for all runs, or None where the runtime does not tell it."""
        values = [getattr(times, name) for times in self.told]
        return None if None in values else tuple(values)

    @property
    def runs_per_second(self) -> float:
        """Of all streams together; 0 where the clock did not move."""
        return len(self.told) / self.seconds if self.seconds else 0.0

    @property
    def drift(self) -> float:
        """Median of the last block ÷ median of the first, minus 1."""
        first = median(self.blocks[0])
        return median(self.blocks[-1]) / first - 1 if first else 0.0


def measure(
    subject: Sequence[Run], baseline: Sequence[Run] | None, effort: Effort, clock: Clock
) -> tuple[Timed, Timed | None]:
    """Warm up, then time.

    Args:
        subject: The model: what runs it once, for each stream.
        baseline: What it is held against, or None.
        effort: Spent on each of them.
        clock: In seconds.

    Returns:
        The times of the model, and of the baseline.
    """
    sides: list[_Side] = []
    try:
        sides.extend(_Side(streams, clock) for streams in (subject, baseline) if streams is not None)
        count = effort.blocks(sides[0].warm_up.run_seconds)
        for index in range(count):
            runs = None if effort.runs is None else effort.runs // count + (index < effort.runs % count)
            for side in sides if index % 2 == 0 else reversed(sides):
                side.block(effort.seconds / count, runs)
        timed = [side.timed() for side in sides]
    finally:
        for side in sides:
            side.close()
    return timed[0], timed[1] if baseline is not None else None


class _Side:
    def __init__(self, runs: Sequence[Run], clock: Clock) -> None:
        self._clock = clock
        self._blocks: list[tuple[float, ...]] = []
        self._told: list[Times] = []
        self._seconds = 0.0
        self.warm_up = warm_up(runs[0], clock)
        self._streams = Streams(runs, clock)

    def block(self, seconds: float, runs: int | None) -> None:
        """Time until so many seconds have passed, or so many runs where they are given; at least one run a stream."""
        self._clock.sleep(SETTLE_SECONDS)
        laps = self._streams.laps(SETTLING_RUNS, seconds, runs)
        self._blocks.append(tuple(value for lap in laps for value in lap.host_ms))
        self._told += [times for lap in laps for times in lap.told]
        self._seconds += max(lap.ended for lap in laps) - min(lap.began for lap in laps)

    def timed(self) -> Timed:
        return Timed(tuple(self._blocks), tuple(self._told), self._seconds, self.warm_up)

    def close(self) -> None:
        self._streams.close()
