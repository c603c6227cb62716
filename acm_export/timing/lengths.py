"""Requests of different lengths, in buckets: powers of two of the length, and all requests together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.data.batches import Arrays, GraphInput


@dataclass(frozen=True)
class Lengths:
    """The requests that a row of the result is about.

    Args:
        axis: Name of the dynamic axis, such as ``tokens``; several are joined by ``x``, and their sizes multiplied.
        low: Smallest length: of the bucket, or of all requests.
        high: Largest length; that of a bucket is a power of two.
        requests: Number of requests.
        whole: Whether these are all requests, each as often as it occurs in the data.
    """

    axis: str
    low: int
    high: int
    requests: int
    whole: bool

    def __str__(self) -> str:
        """Range and unit, for people."""
        size = f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"
        return f"{size} {self.axis}"


@dataclass(frozen=True)
class Bucket:
    """Requests of similar length: a description, and their indices."""

    lengths: Lengths
    requests: tuple[int, ...]


def length_buckets(inputs: Sequence[GraphInput], requests: Sequence[Arrays]) -> tuple[Bucket, ...]:
    """All requests, followed by the buckets of their lengths if there are at least two.

    A request of length n is in the bucket whose upper end is the smallest power of two that is at least n.

    Args:
        inputs: Inputs of the model; the first with a dynamic axis besides the batch gives the length.
        requests: Arrays of each request.

    Returns:
        No bucket if all requests have the same shapes.
    """
    if len({tuple(sorted((name, array.shape) for name, array in request.items())) for request in requests}) == 1:
        return ()
    value = next(value for value in inputs if is_dynamic(value))
    axes = [axis for axis, size in enumerate(value.shape) if axis and isinstance(size, str)]
    name = "x".join(str(value.shape[axis]) for axis in axes)
    sizes = [math.prod(request[value.name].shape[axis] for axis in axes) for request in requests]
    found = [Bucket(Lengths(name, min(sizes), max(sizes), len(sizes), whole=True), tuple(range(len(sizes))))]
    ends = [1 << (size - 1).bit_length() for size in sizes]
    for end in sorted(set(ends)) if len(set(ends)) > 1 else ():
        chosen = tuple(index for index, other in enumerate(ends) if other == end)
        found.append(Bucket(Lengths(name, end // 2 + 1, end, len(chosen), whole=False), chosen))
    return tuple(found)


def is_dynamic(value: GraphInput) -> bool:
    """Whether an input has a dynamic axis besides the batch."""
    return any(isinstance(size, str) for size in value.shape[1:])
