"""What is fed while time is taken: batches of real data, or random ones of the example's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import draw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset

MOST_BATCHES = 8
"""Different batches that runs go through in turn, so that a time is not that of one lucky sample."""


@dataclass(frozen=True)
class Feeds:
    """Batches of one size.

    Args:
        batches: All of the same shapes; runs take them in turn.
        source: The name of the data, or None for random numbers.
    """

    batches: tuple[Arrays, ...]
    source: str | None

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of each input."""
        return {name: list(array.shape) for name, array in self.batches[0].items()}


def check_batch_sizes(inputs: Sequence[GraphInput], sizes: Sequence[int]) -> None:
    """Refuse batch sizes that the model does not take.

    Raises:
        UsageError: The model's batch is fixed to another.
    """
    fixed = {value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], int)}
    for size in sizes:
        if fixed and fixed != {size}:
            held = ", ".join(map(str, sorted(fixed, key=int)))
            raise UsageError(f"--batch is {size}, the model's batch is fixed to {held}")


def random_feeds(inputs: Sequence[GraphInput], example: Mapping[str, list[int]], batch: int) -> Feeds:
    """Random inputs: standard normal floats, ones for whole numbers and booleans.

    Args:
        inputs: Of the model.
        example: Shapes of one sample, from the manifest, which give every dynamic axis but the batch.
        batch: Samples.

    Raises:
        UsageError: The example does not say the shape of an input.
    """
    symbol = inputs[0].shape[0]
    drawn = []
    for number in range(MOST_BATCHES):
        rng = np.random.default_rng(number)
        drawn.append({value.name: draw(rng, value, _shape(value, example, symbol, batch)) for value in inputs})
    return Feeds(tuple(drawn), None)


def data_feeds(dataset: Dataset, batch: int) -> Feeds:
    """The first samples of data, in whole batches, at most :data:`MOST_BATCHES`; all are padded to one shape.

    Args:
        dataset: Samples for the model.
        batch: Samples of a batch.

    Raises:
        UsageError: The data do not fit the model, have fewer samples than a batch, or samples of different shapes that
            cannot be padded.
    """
    count = min(len(dataset) // batch, MOST_BATCHES)
    if not count:
        raise UsageError(f"{dataset.name} has {len(dataset)} samples, a batch takes {batch}", "give more samples")
    (all_,) = dataset.take(np.arange(count * batch)).batches(count * batch)
    parts = (all_.rows(slice(start, start + batch)) for start in range(0, count * batch, batch))
    return Feeds(tuple(part.feeds for part in parts), dataset.name)


def _shape(value: GraphInput, example: Mapping[str, list[int]], symbol: int | str, batch: int) -> list[int]:
    given = example.get(value.name, [])
    if len(given) != len(value.shape):
        raise UsageError(
            f"the example in the manifest has {value.name} as {given}, the model takes {list(value.shape)}",
            "give real inputs with --data",
        )
    sizes = zip(value.shape, given, strict=True)
    return [batch if dim == symbol else dim if isinstance(dim, int) else size for dim, size in sizes]
