"""What an engine and its file are compared on: real data that fit the profile, or random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import draw
from acm_export.engine.profiles import format_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.engine.profiles import Profile

_SAMPLES = 16
"""Of data, at most: the portable file runs on the CPU, and this is a check and no evaluation."""


def batches(inputs: tuple[GraphInput, ...], profiles: Mapping[str, Profile], source: Dataset | None) -> list[Arrays]:
    """What to run: data in batches of the best shape, or random numbers of the smallest and of the best shape.

    Args:
        inputs: Without dials.
        profiles: Of those with a dynamic dimension.
        source: Real data; None for random numbers.

    Raises:
        UsageError: The data do not fit the model or the profile.
    """
    return _random(inputs, profiles) if source is None else _real(inputs, profiles, source)


def _random(inputs: tuple[GraphInput, ...], profiles: Mapping[str, Profile]) -> list[Arrays]:
    rng = np.random.default_rng(0)
    small, best = ({v.name: _shape(v, profiles, kind) for v in inputs} for kind in ("minimum", "optimum"))
    return [
        {v.name: draw(rng, v, shapes[v.name]) for v in inputs}
        for shapes in ((small,) if small == best else (small, best))
    ]


def _real(inputs: tuple[GraphInput, ...], profiles: Mapping[str, Profile], source: Dataset) -> list[Arrays]:
    size, taken = _shape(inputs[0], profiles, "optimum")[0], 0
    found: list[Arrays] = []
    for batch in source.batches(size):
        misfit = next((text for value in inputs if (text := _misfit(batch.feeds, value, profiles))), None)
        if misfit and batch.samples == size:
            raise UsageError(f"{source.name} has {misfit}", "--min-shapes and --max-shapes change that")
        if not misfit:  # a last batch may be too short
            found.append(batch.feeds)
            taken += batch.samples
        if taken >= _SAMPLES:
            break
    if not found:
        raise UsageError(f"{source.name} has fewer samples than the batch of {size}", "give more data")
    return found


def _misfit(feeds: Arrays, value: GraphInput, profiles: Mapping[str, Profile]) -> str | None:
    """What does not lie within the profile, in words."""
    low, high = (_shape(value, profiles, end) for end in ("minimum", "maximum"))
    shape = feeds[value.name].shape
    if all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
        return None
    return f"{value.name} of {format_shape(shape)}, the engine takes {format_shape(low)} to {format_shape(high)}"


def _shape(value: GraphInput, profiles: Mapping[str, Profile], kind: str) -> tuple[int, ...]:
    if value.name in profiles:
        shape: tuple[int, ...] = getattr(profiles[value.name], kind)
        return shape
    return tuple(int(size) for size in value.shape)
