"""Inputs for the comparison of an engine: samples from the user's data, or random numbers."""

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
"""Largest number of samples to compare on: the portable file runs on the CPU."""


def batches(inputs: tuple[GraphInput, ...], profiles: Mapping[str, Profile], source: Dataset | None) -> list[Arrays]:
    """Batches of data in the optimal shape, or random numbers in the smallest and the optimal shape.

    Args:
        inputs: Inputs of the model, without budget and thresholds.
        profiles: Shapes of the inputs with a dynamic dimension.
        source: The user's data, or None for random numbers.

    Raises:
        UsageError: The data does not fit the model or the profile.
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
            raise UsageError(f"{source.name}: {misfit}", "change the range with --min-shapes and --max-shapes")
        if not misfit:  # a last batch may be too short
            found.append(batch.feeds)
            taken += batch.samples
        if taken >= _SAMPLES:
            break
    if not found:
        raise UsageError(
            f"{source.name} has fewer samples than the batch of {size}", "give more data, or set a smaller --opt-shapes"
        )
    return found


def _misfit(feeds: Arrays, value: GraphInput, profiles: Mapping[str, Profile]) -> str | None:
    """Why a batch does not fit the profile, or None if it fits."""
    low, high = (_shape(value, profiles, end) for end in ("minimum", "maximum"))
    shape = feeds[value.name].shape
    if all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
        return None
    return f"{value.name} has shape {format_shape(shape)}; the engine takes {format_shape(low)} to {format_shape(high)}"


def _shape(value: GraphInput, profiles: Mapping[str, Profile], kind: str) -> tuple[int, ...]:
    if value.name in profiles:
        shape: tuple[int, ...] = getattr(profiles[value.name], kind)
        return shape
    return tuple(int(size) for size in value.shape)
