"""Errors of Triton's interpreter with bfloat16, their correction in the tests, and a check that it is still needed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kernel_processes import interpreted
from kernel_runs import product, rounded


def matrices() -> tuple[np.ndarray[Any, Any], ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((16, 16)).astype(ml_dtypes.bfloat16) for _ in range(2))


def halfway() -> np.ndarray[Any, Any]:
    """float32 values that rounding to the nearest and cutting bits off treat differently, and special ones."""
    values = np.random.default_rng(1).standard_normal(57).astype(np.float32)
    return np.concatenate([values, np.array([np.inf, -np.inf, np.nan, 0, 255.5, 3.3e38, 1e-40], np.float32)])


def test_products_of_bfloat16_are_right_in_the_tests() -> None:
    a, b = matrices()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(interpreted(product, a, b, corrected=True), exact, atol=1e-5)


def test_float32_is_rounded_to_the_nearest_bfloat16_in_the_tests() -> None:
    values = halfway()
    found = interpreted(rounded, values, corrected=True)
    np.testing.assert_array_equal(found.astype(np.float32), values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("fault", ["product", "rounding"])
def test_triton_is_still_wrong_without_the_correction(fault: str) -> None:
    a, b = matrices()
    if fault == "product":
        found, right = interpreted(product, a, b, corrected=False), a.astype(np.float32) @ b.astype(np.float32)
    else:
        values = halfway()
        found, right = interpreted(rounded, values, corrected=False), values.astype(ml_dtypes.bfloat16)
    wrong = not np.allclose(found.astype(np.float32), right.astype(np.float32), equal_nan=True, atol=1e-3, rtol=1e-3)
    assert wrong, "Triton's interpreter is fixed: remove the workaround from tests/support/kernel_bfloat16.py"
