"""The budget table that calibration stores in the manifest: from a budget to the thresholds of every layer.

Thresholds are interpolated linearly between knots and clamped outside, in float32 and in the order of operations of
:func:`interpolate`. The graph of a file with a budget input (``budget_input.py``) performs the same operations, so both
give the same bits in ONNX Runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.json_fields import (
    BOOL,
    LIST,
    NUMBER,
    NUMBER_OR_NULL,
    NUMBERS,
    OBJECT,
    ROWS,
    SHARE,
    SHARE_OR_NULL,
    TEXT,
    WHOLE,
    BrokenFieldError,
    checked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class BudgetTable:
    """Knots from the smallest reachable budget to 1.

    Args:
        budgets: Measured β of each of the K knots, ascending.
        thresholds: K rows of N finite thresholds for each layer; no entry increases from one knot to the next.

    Raises:
        ValueError: The budgets or thresholds violate these conditions.
    """

    budgets: tuple[float, ...]
    thresholds: Mapping[str, tuple[tuple[float, ...], ...]]

    def __post_init__(self) -> None:
        knots = np.array(self.budgets, np.float32)
        if not self.budgets or not np.isfinite(knots).all() or any(b <= a for a, b in pairwise(knots.tolist())):
            raise ValueError(f"the budgets of the table do not ascend: {list(self.budgets)}")
        for name, rows in self.thresholds.items():
            if len(rows) != len(self.budgets) or len({len(row) for row in rows}) != 1:
                raise ValueError(f"the table has {len(self.budgets)} budgets, but {len(rows)} rows for {name}")
            if not all(math.isfinite(value) for row in rows for value in row):
                raise ValueError(f"the table has thresholds for {name} that are not finite")
            if any(after > before for a, b in pairwise(rows) for before, after in zip(a, b, strict=True)):
                raise ValueError(f"the thresholds for {name} increase with the budget")

    @property
    def smallest(self) -> float:
        """Smallest budget of the table."""
        return self.budgets[0]

    @property
    def largest(self) -> float:
        """Largest budget of the table."""
        return self.budgets[-1]

    def clamped(self, budget: float) -> float:
        """The budget, or the nearest end of the table's range."""
        return min(max(budget, self.smallest), self.largest)

    def at(self, budget: float) -> dict[str, NDArray[np.float32]]:
        """Thresholds float32 ``[N]`` of each layer for a budget, clamped to the table's range."""
        weights = hat_weights(budget, np.array(self.budgets, np.float32))
        return {name: interpolate(weights, np.array(rows, np.float32)) for name, rows in self.thresholds.items()}


def hat_weights(budget: float, knots: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of the knots for a budget: the hat functions of piecewise linear interpolation.

    Args:
        budget: Any number; outside the range of the knots the nearest end has weight 1.
        knots: Budgets of the knots, float32 ``[K]``, ascending.

    Returns:
        float32 ``[K]``, at most two of them above 0; on a knot exactly one, which is exactly 1.
    """
    below, above = neighbours(knots)
    b = np.minimum(np.maximum(np.float32(budget), knots[0]), knots[-1])
    return np.asarray(np.maximum(np.minimum((b - below) / (knots - below), (above - b) / (above - knots)), 0))


def neighbours(knots: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The knots before and after each knot; the ends get a neighbour at distance 1."""
    one = np.float32(1)
    return np.concatenate([[knots[0] - one], knots[:-1]]), np.concatenate([knots[1:], [knots[-1] + one]])


def interpolate(weights: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sum over knots: weights ``[K]``, rows ``[K, N]`` to ``[N]``.

    At most two terms are nonzero, so the sum is rounded once, in any order.
    """
    return np.asarray((weights[:, None] * rows).sum(0, dtype=np.float32))


@dataclass(frozen=True)
class KnotRecord:
    """Measurement of one knot on the calibration data.

    Args:
        budget: Measured β.
        divergence: Divergence from the output with all learners; :attr:`Calibration.divergence` names the measure.
        accuracy: Share of correctly classified samples, if the data has labels.
    """

    budget: float
    divergence: float
    accuracy: float | None = None


@dataclass(frozen=True)
class RequestRecord:
    """A requested budget, and the budget that the table's thresholds give.

    Args:
        requested: Requested β.
        calibration: β measured on the calibration data.
        held_out: β measured on held-out data, or None without such data.
        standard_error: Standard error of ``held_out``, from the variance between samples.
    """

    requested: float
    calibration: float
    held_out: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Calibration:
    """How a file was calibrated.

    Args:
        solver: Name of the solver: sensitivity or uniform.
        table: Budget table.
        trained_budget: β measured at τ = 0.
        data_sha256: SHA-256 of the arrays that were fed to the model.
        samples: Number of samples that the table was fitted on.
        held_out_samples: Number of samples that it was checked on.
        tokens: Number of tokens that reached ACM layers in the calibration samples, without padding.
        divergence: Name of the measure of divergence.
        knots: Measurements of the knots, in the order of the table.
        requests: Requested budgets, ascending.
        budget_input: Whether the graph takes ``budget`` as an input.
    """

    solver: str
    table: BudgetTable
    trained_budget: float
    data_sha256: str
    samples: int
    held_out_samples: int
    tokens: int
    divergence: str
    knots: tuple[KnotRecord, ...]
    requests: tuple[RequestRecord, ...]
    budget_input: bool = False

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Calibration:
        """Parse the manifest's JSON object.

        Raises:
            BrokenFieldError: A field is missing or invalid, or the table violates its conditions.
        """
        fields = checked(content, _CALIBRATION, "calibration.")
        table = checked(fields["table"], _TABLE, "calibration.table.")
        rows = checked(table["thresholds"], dict.fromkeys(table["thresholds"], ROWS), "calibration.table.thresholds.")
        knots = [checked(k, _KNOT, f"calibration.knots[{i}].") for i, k in enumerate(fields["knots"])]
        requests = [checked(r, _REQUEST, f"calibration.requests[{i}].") for i, r in enumerate(fields["requests"])]
        try:
            parsed_table = BudgetTable(
                tuple(map(float, table["budgets"])),
                {name: tuple(tuple(map(float, row)) for row in layer) for name, layer in rows.items()},
            )
        except ValueError as error:
            raise BrokenFieldError(f"calibration.table: {error}") from error
        parsed = {
            "table": parsed_table,
            "knots": tuple(KnotRecord(**knot) for knot in knots),
            "requests": tuple(RequestRecord(**request) for request in requests),
        }
        return cls(**(fields | parsed))


_TABLE = {"budgets": NUMBERS, "thresholds": OBJECT}
_KNOT = {"budget": SHARE, "divergence": NUMBER, "accuracy": SHARE_OR_NULL}
_REQUEST = {"requested": SHARE, "calibration": SHARE, "held_out": SHARE_OR_NULL, "standard_error": NUMBER_OR_NULL}
_CALIBRATION = {
    "solver": TEXT,
    "table": OBJECT,
    "trained_budget": SHARE,
    "data_sha256": TEXT,
    "samples": WHOLE,
    "held_out_samples": WHOLE,
    "tokens": WHOLE,
    "divergence": TEXT,
    "knots": LIST,
    "requests": LIST,
    "budget_input": BOOL,
}
