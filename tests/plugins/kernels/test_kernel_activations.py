"""The activations of the kernels, interpreted, compared with float64 formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_processes import interpreted
from kernel_runs import activated

from acm_export.op import ACTIVATIONS
from acm_export.op.reference import activate

PRECISIONS = {"float32": 0, "rounded": 1}
INF, NAN = float("inf"), float("nan")


def values() -> np.ndarray[Any, Any]:
    """float32: a dense grid where the curves bend, and any bit pattern that is finite."""
    grid = np.linspace(-12, 12, 1 << 16, dtype=np.float32)
    anything = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    edges = np.array([0, -0.0, 1e-45, -1e-45, 1e-38, 5.5, -5.5, 88, -88, 104, -104, 3.4e38, -3.4e38], np.float32)
    return np.concatenate([grid, anything[np.isfinite(anything)], edges])


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_smooth_activations_are_within_a_millionth(name: str) -> None:
    v = values()
    found = interpreted(activated, v, name)
    assert np.isfinite(found).all()
    exact = activate(name, v.astype(np.float64))
    ordinary = np.abs(exact) < 5
    assert np.abs(found - exact)[ordinary].max() <= 1e-6
    np.testing.assert_allclose(found[~ordinary], exact[~ordinary], rtol=2e-7)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_smooth_activations_that_are_rounded_afterwards_are_within_3e_5(name: str) -> None:
    v = values()
    found = interpreted(activated, v, name, PRECISIONS["rounded"])
    assert np.isfinite(found).all()
    exact = activate(name, v.astype(np.float64))
    ordinary = np.abs(exact) < 5
    assert np.abs(found - exact)[ordinary].max() <= 3e-5
    np.testing.assert_allclose(found[~ordinary], exact[~ordinary], rtol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("name", ["relu", "identity"])
def test_the_others_are_exact(name: str, precision: int) -> None:
    v = values()
    np.testing.assert_array_equal(interpreted(activated, v, name, precision), activate(name, v.astype(np.float64)))


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_that_are_not_finite_give_what_the_formula_gives(name: str, precision: int) -> None:
    v = np.array([INF, -INF, NAN, -NAN], np.float32)
    with np.errstate(invalid="ignore"):
        expected = activate(name, v.astype(np.float64))
    np.testing.assert_array_equal(interpreted(activated, v, name, precision), expected)
