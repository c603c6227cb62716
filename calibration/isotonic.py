"""Isotonic regression: the closest numbers, by least squares, that keep an order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SWEEPS = 500
_CONVERGED = 1e-12


def non_decreasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The closest non-decreasing sequence, by pooling adjacent violators (Ayer et al. 1955).

    Args:
        values: Sequence, ``[n]``.
    """
    blocks: list[tuple[float, int]] = []  # mean and length
    for value in values.tolist():
        mean, length = value, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean = (mean * length + before * count) / (length + count)
            length += count
        blocks.append((mean, length))
    return np.repeat([mean for mean, _ in blocks], [length for _, length in blocks]).astype(np.float64)


def ordered_both_ways(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The closest matrix whose rows never decrease and whose columns never increase.

    Dykstra's alternating projections (Dykstra and Robertson 1982): project on one order, then on the other, each time
    with the correction that the same projection made before.

    Args:
        values: Finite matrix, ``[rows, columns]``.
    """
    current = values.astype(np.float64)
    row_correction, column_correction = np.zeros_like(current), np.zeros_like(current)
    scale = np.abs(current).max(initial=0.0)
    for _ in range(_SWEEPS):
        by_rows = np.array([non_decreasing(row) for row in current + row_correction])
        row_correction += current - by_rows
        by_columns = -np.array([non_decreasing(-column) for column in (by_rows + column_correction).T]).T
        column_correction += by_rows - by_columns
        change = np.abs(by_columns - by_rows).max(initial=0.0)
        current = by_columns
        if change <= _CONVERGED * scale:
            break
    return _exactly_ordered(current)


def _exactly_ordered(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix with both orders exact; after a finite number of sweeps they hold only approximately."""
    return np.asarray(np.minimum.accumulate(np.maximum.accumulate(values, axis=1), axis=0))
