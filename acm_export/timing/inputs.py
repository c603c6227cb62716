"""The batches that timed runs feed: real data, or random numbers of the example's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import draw
from acm_export.timing.lengths import is_dynamic, length_buckets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.timing.lengths import Bucket

MAX_BATCHES = 8
"""Largest number of batches that runs cycle through, so that a time does not depend on one lucky sample."""

MAX_REQUESTS = 64
"""Largest number of requests of different lengths: p90 of 64 rests on six of them, and a pass over 64 requests of 20 ms
takes 1.3 s."""

_READ = 1024
"""Samples from which requests of different lengths are chosen."""


@dataclass(frozen=True)
class InputBatches:
    """Batches of one size.

    Args:
        batches: Runs cycle through them.
        source: Name of the data; None for random numbers.
        buckets: Buckets of their lengths if the batches have different shapes, all of them first; otherwise empty.
    """

    batches: tuple[Arrays, ...]
    source: str | None
    buckets: tuple[Bucket, ...] = ()

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of each input; the largest size of each axis if batches have different shapes."""
        shapes = {name: [batch[name].shape for batch in self.batches] for name in self.batches[0]}
        return {name: [max(sizes) for sizes in zip(*found, strict=True)] for name, found in shapes.items()}

    @property
    def samples(self) -> int:
        """Samples of one batch."""
        return len(next(iter(self.batches[0].values())))

    @property
    def middle(self) -> int | None:
        """Index of the batch of median size if batches have different shapes, else None."""
        if not self.buckets:
            return None
        sizes = [sum(array.size for array in batch.values()) for batch in self.batches]
        return sorted(range(len(sizes)), key=sizes.__getitem__)[len(sizes) // 2]

    def of(self, bucket: Bucket) -> InputBatches:
        """The batches of a bucket."""
        return InputBatches(tuple(self.batches[index] for index in bucket.requests), self.source)


def samples_to_read(inputs: Sequence[GraphInput], batch: int) -> int:
    """Number of samples from which :func:`data_batches` chooses batches of this size."""
    return max(_READ, MAX_REQUESTS * batch) if any(map(is_dynamic, inputs)) else MAX_BATCHES * batch


def check_batch_sizes(inputs: Sequence[GraphInput], sizes: Sequence[int]) -> None:
    """Refuse batch sizes that the model does not accept.

    Raises:
        UsageError: The model has another fixed batch size.
    """
    fixed = {value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], int)}
    for size in sizes:
        if fixed and fixed != {size}:
            accepted = ", ".join(map(str, sorted(fixed, key=int)))
            raise UsageError(
                f"--batch is {size}; the model has the fixed batch size {accepted}", f"time it with --batch {accepted}"
            )


def check_same_inputs(baseline: Path, given: Sequence[GraphInput], model: Path, wanted: Sequence[GraphInput]) -> None:
    """Refuse a baseline that does not take the inputs of the model.

    Args:
        baseline: Path of the baseline.
        given: Inputs of the baseline.
        model: Path of the model.
        wanted: Inputs of the model.

    Raises:
        UsageError: Names, dtypes or shapes of the inputs differ.
    """
    if len(given) != len(wanted) or not all(any(_same(a, b) for b in wanted) for a in given):
        part = "; --part names the part of a folder" if baseline.is_dir() else ""
        raise UsageError(
            f"the baseline {baseline} takes {_listed(given)}; {model} takes {_listed(wanted)}",
            f"give a baseline with the same inputs: both are fed the same arrays{part}",
        )


def random_batches(inputs: Sequence[GraphInput], example: Mapping[str, list[int]], batch: int) -> InputBatches:
    """Random inputs: standard normal floats, ones for integers and booleans.

    Args:
        inputs: Inputs of the model.
        example: Shapes of the manifest's example, which set every dynamic axis except the batch.
        batch: Samples of a batch.

    Raises:
        UsageError: The example does not give the shape of an input.
    """
    symbol = inputs[0].shape[0]
    batches = []
    for seed in range(MAX_BATCHES):
        rng = np.random.default_rng(seed)
        batches.append({value.name: draw(rng, value, _shape(value, example, symbol, batch)) for value in inputs})
    return InputBatches(tuple(batches), None)


def data_batches(dataset: Dataset, batch: int) -> InputBatches:
    """Whole batches of the data.

    If samples have different lengths, they are at most :data:`MAX_REQUESTS` batches, spread evenly over the data, each
    padded to its longest sample. Otherwise they are the first ones, at most :data:`MAX_BATCHES`.

    Raises:
        UsageError: The data do not fit the model, have fewer samples than a batch, or samples of different shapes that
            cannot be padded.
    """
    dataset[0]  # refuses batches in place of samples before they are counted
    count = len(dataset) // batch
    if not count:
        samples = "1 sample" if len(dataset) == 1 else f"{len(dataset)} samples"
        raise UsageError(f"{dataset.name} has {samples}; --batch is {batch}", "give more data or a smaller --batch")
    if any(map(is_dynamic, dataset.inputs)):
        chosen = dataset.spread(min(count, MAX_REQUESTS) * batch)
        requests = tuple(part.feeds for part in chosen.batches(batch))
        if buckets := length_buckets(dataset.inputs, requests):
            return InputBatches(requests, dataset.name, buckets)
    first = dataset.take(np.arange(min(count, MAX_BATCHES) * batch))
    return InputBatches(tuple(part.feeds for part in first.batches(batch)), dataset.name)


def _shape(value: GraphInput, example: Mapping[str, list[int]], symbol: int | str, batch: int) -> list[int]:
    given = example.get(value.name, [])
    if len(given) != len(value.shape):
        raise UsageError(
            f"the example in the manifest has {value.name} with shape {given}; the model takes {list(value.shape)}",
            "give real inputs with --data",
        )
    sizes = zip(value.shape, given, strict=True)
    return [batch if dim == symbol else dim if isinstance(dim, int) else size for dim, size in sizes]


def _same(one: GraphInput, other: GraphInput) -> bool:
    if (one.name, one.dtype, len(one.shape)) != (other.name, other.dtype, len(other.shape)):
        return False
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one.shape, other.shape, strict=True))


def _listed(inputs: Sequence[GraphInput]) -> str:
    return ", ".join(f"{v.name} {v.dtype} [{', '.join(map(str, v.shape))}]" for v in inputs) or "no inputs"
