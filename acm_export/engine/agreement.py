"""An engine's outputs against the portable file's: the comparison alone. Not yet run on outputs of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

COUNTS = "counts/"
"""Begin of the names of outputs that hold learner counts."""


@dataclass(frozen=True)
class Agreement:
    """How far two runs of one model agree.

    Args:
        error: Largest difference over samples whose tokens were all routed alike, relative to the largest value; None
            where there is no such sample, NaN where one run has a NaN or an infinity that the other has not.
        samples: Samples, and how many of them were routed alike.
        alike: See there.
        routed_differently: Tokens with another count in some layer, over all layers.
        tokens: Tokens over all layers; 0 in a file without outputs of counts, where every sample is compared.
    """

    error: float | None
    samples: int
    alike: int
    routed_differently: int
    tokens: int


def agreement(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> Agreement:
    """Compare outputs by name; the first dimension is samples.

    Raises:
        EngineError: Outputs differ in name or shape.
    """
    shapes = [{name: tuple(value.shape) for name, value in outputs.items()} for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise EngineError(f"the engine's outputs are {shapes[1]}, those of the portable file {shapes[0]}")
    samples = len(next(iter(expected.values())))
    counts = [name for name in expected if name.startswith(COUNTS)]
    differs = [(expected[name] != actual[name]).reshape(samples, -1) for name in counts]
    moved = np.concatenate([np.zeros((samples, 0), np.bool_), *differs], axis=1)
    alike = ~moved.any(axis=1)
    errors = [_error(expected[name][alike], actual[name][alike]) for name in expected if name not in counts]
    error = float(np.max(errors)) if errors and alike.any() else None
    return Agreement(error, samples, int(alike.sum()), int(moved.sum()), moved.size)


def _error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    if not expected.size:
        return 0.0
    reference, value = expected.astype(np.float64), actual.astype(np.float64)
    same = (reference == value) | (np.isnan(reference) & np.isnan(value))
    if same.all():
        return 0.0
    if not np.isfinite(reference[~same]).all() or not np.isfinite(value[~same]).all():
        return float("nan")
    largest = np.abs(reference[np.isfinite(reference)]).max()
    return float(np.abs(reference[~same] - value[~same]).max() / max(largest, np.finfo(np.float64).tiny))
