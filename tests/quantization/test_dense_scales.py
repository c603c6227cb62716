"""Scales of dense linear layers that read one tensor."""

from __future__ import annotations

import numpy as np
import pytest

from acm_export.quantization.dense_scales import dynamic_site, static_site
from acm_export.quantization.observed import Observed
from acm_export.quantization.options import Options

D = 48
STATIC, DYNAMIC = Options(), Options("dynamic")


def case(outlier: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Observed]:
    """Weights and biases of two layers, and tokens whose channel 2 is ``outlier`` times as large as the others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, D)).astype(np.float32)
    x[:, 2] *= outlier
    weights = {name: (rng.standard_normal((D, size)) / 7).astype(np.float32) for name, size in (("a", 20), ("b", 30))}
    for weight in weights.values():
        weight[2] /= outlier
    biases = {"a": rng.standard_normal(20).astype(np.float32)}
    return weights, biases, Observed(np.abs(x).max(0), x)


def products(weights: dict[str, np.ndarray], site: object, x: np.ndarray) -> dict[str, np.ndarray]:
    """The products of an int8 site, in float64."""
    values = x.astype(np.float64) * (1 if site.migration is None else site.migration)  # type: ignore[attr-defined]
    scale = site.scale or np.abs(values).max(-1, keepdims=True) / 127  # type: ignore[attr-defined]
    q = np.clip(np.rint(values / scale), -128, 127) * scale
    int8 = site.weights  # type: ignore[attr-defined]
    return {name: q @ (int8[name].values * int8[name].scale.astype(np.float64)) for name in weights}


@pytest.mark.parametrize("outlier", [1.0, 50.0])
@pytest.mark.parametrize("foldable", [False, True])
@pytest.mark.parametrize("options", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_products_are_close_and_their_errors_reported(options: Options, outlier: float, *, foldable: bool) -> None:
    weights, _, seen = case(outlier)
    if options.dynamic:
        result = dynamic_site(weights, seen, options, foldable=foldable)
    else:
        result = static_site(weights, {}, seen, options, foldable=foldable)

    for name, product in products(weights, result.scales, seen.sample).items():
        exact = seen.sample.astype(np.float64) @ weights[name]
        error = np.square(product - exact).sum() / np.square(exact).sum()
        assert error < 5e-4
        assert result.errors[name] == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("make", ["static", "dynamic"])
def test_a_migration_that_costs_a_multiplication_must_pay_off(make: str) -> None:
    def migrated(outlier: float, options: Options, *, foldable: bool) -> bool:
        weights, _, seen = case(outlier)
        if make == "dynamic":
            return dynamic_site(weights, seen, options, foldable=foldable).scales.migration is not None
        return static_site(weights, {}, seen, options, foldable=foldable).scales.migration is not None

    options = Options(make)
    assert migrated(50.0, options, foldable=False)
    assert not migrated(1.0, options, foldable=False)
    assert not migrated(50.0, Options(make, migration=0), foldable=True)


def test_biases_are_corrected_for_the_mean_error() -> None:
    weights, biases, seen = case(1.0)
    seen = Observed(seen.largest + 3, seen.sample + np.float32(3))

    result = static_site(weights, biases, seen, Options(weight_bits=7), foldable=True)

    corrected = result.scales.weights["a"].bias
    assert corrected is not None
    assert result.scales.weights["b"].bias is None
    product = products(weights, result.scales, seen.sample)["a"]
    exact = seen.sample.astype(np.float64) @ weights["a"]
    assert (product + corrected).mean(0) == pytest.approx((exact + biases["a"]).mean(0), abs=1e-4)
    assert abs((product - exact).mean(0)).max() > 1e-3


def test_dynamic_scales_need_no_data() -> None:
    weights, _, seen = case(1.0)

    result = dynamic_site(weights, None, DYNAMIC, foldable=True)

    assert result.errors == {"a": None, "b": None}
    assert (result.scales.scale, result.scales.migration) == (None, None)
    exact = seen.sample @ weights["a"]
    assert products(weights, result.scales, seen.sample)["a"] == pytest.approx(exact, abs=0.1)
