"""Which samples a step takes: that follows from seed and step alone, so that a killed run goes on as it would have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRIME = 1_000_003


class StepOrder:
    """Indices of the samples of steps ``first`` to ``last``, an epoch after the other, each in an order of its own.

    Args:
        samples: How many there are.
        batch_size: Samples of a step; all of them where there are fewer.
        seed: Of the orders.
        first: Step to begin with.
        last: Step to end before.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, first: int, last: int) -> None:
        self.batch_size = min(batch_size, samples)
        self.drop_last = True
        self._samples, self._seed, self._first, self._last = samples, seed, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self._samples // self.batch_size
        epoch, order = -1, torch.empty(0)
        for step in range(self._first, self._last):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(mixed(self._seed, epoch))
                order = torch.randperm(self._samples, generator=generator)
            start = step % per_epoch * self.batch_size
            yield order[start : start + self.batch_size].tolist()


def mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    value = 0
    for number in numbers:
        value = (value * _PRIME + number + 1) % (1 << 62)
    return value
