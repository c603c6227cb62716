"""int8 scales of weights and activations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acm_export.op import ACTIVATIONS
from acm_export.op.reference import activate
from acm_export.quantization.activations import activated
from acm_export.quantization.scales import (
    hidden_scale,
    migration,
    quantize_axis,
    quantize_columns,
    round_hidden,
    round_symmetric,
    symmetric_scale,
    weight_levels,
)

RNG = np.random.default_rng(0)
_FLOATS = st.floats(-1e4, 1e4, width=32)


@given(arrays(np.float32, (7, 5), elements=_FLOATS), st.sampled_from([7, 8]))
def test_weights_are_off_by_at_most_half_a_step(weight: np.ndarray, bits: int) -> None:
    values, scale = quantize_columns(weight, weight_levels(bits))

    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= {7: 63, 8: 127}[bits]
    assert (scale > 0).all()
    assert (np.abs(values * scale.astype(np.float64) - weight) <= 0.5001 * scale).all()


def test_the_largest_weight_of_each_column_is_exact() -> None:
    weight = RNG.standard_normal((40, 6)).astype(np.float32) * np.array([1, 10, 1e-3, 5, 1e3, 1], np.float32)

    values, _ = quantize_columns(weight, 127)

    assert np.abs(values).max(0).tolist() == [127] * 6


def test_columns_of_zeros_or_denormals_become_zeros_with_scale_1() -> None:
    weight = np.zeros((3, 2), np.float32)
    weight[:, 1] = 1e-44

    values, scale = quantize_columns(weight, 127)

    assert not values.any()
    assert scale.tolist() == [1, 1]


def test_weights_fit_the_scales_that_a_float16_file_stores() -> None:
    weight = RNG.standard_normal((40, 3)).astype(np.float32) * np.array([1e-6, 1e-3, 1], np.float32)

    values, scale = quantize_columns(weight, 127, np.float16)

    assert (scale.astype(np.float16) == scale).all()
    assert (scale > 0).all()
    error = np.abs(values * scale - weight)
    assert (error[:, 1:] <= scale[1:]).all()  # the largest weight may be clipped where its scale was rounded down


def test_rows_can_have_scales_too() -> None:
    table = np.array([[1, -2], [100, 50]], np.float32)

    values, scale = quantize_axis(table, 127, 1)

    assert values.tolist() == [[64, -127], [127, 64]]
    assert scale == pytest.approx([2 / 127, 100 / 127])


@pytest.mark.parametrize("outlier", [3, 10, 100, 150])
def test_an_outlier_is_clipped_where_that_lowers_the_error(outlier: float) -> None:
    sample = RNG.standard_normal((500, 64)).astype(np.float32)
    sample[0, 0] = outlier
    importance = np.ones(64, np.float32)

    scale = symmetric_scale(sample, importance, outlier)

    def error(step: float) -> float:
        return float(np.square(round_symmetric(sample, np.float32(step)) * step - sample).sum())

    reach = np.abs(sample).max() / 127
    assert error(float(scale)) < 1.02 * min(error(reach * share) for share in np.linspace(0.01, 1, 300))


def test_channels_that_no_weight_reads_do_not_matter() -> None:
    sample = RNG.standard_normal((100, 2)).astype(np.float32)
    sample[:, 1] *= 1000

    scale = symmetric_scale(sample, np.array([1, 0], np.float32), float(np.abs(sample).max()))
    matters = symmetric_scale(sample, np.array([1, 1], np.float32), float(np.abs(sample).max()))

    assert scale < 0.5 * matters


def test_values_that_the_sample_lacks_widen_the_search() -> None:
    sample = np.ones((10, 1), np.float32)

    assert symmetric_scale(sample, np.ones(1, np.float32), 1.0) <= 1 / 127
    assert symmetric_scale(sample, np.ones(1, np.float32), 2.0) == pytest.approx(2 / 127, rel=0.99)


@given(
    arrays(np.float32, 6, elements=st.floats(0, 1e4, width=32)),
    arrays(np.float32, 6, elements=st.floats(0, 1e2, width=32)),
    st.floats(0, 1),
)
def test_migration_is_positive_and_balanced(largest: np.ndarray, weight: np.ndarray, alpha: float) -> None:
    divisor = migration(largest, weight, alpha)

    assert np.isfinite(divisor).all()
    assert (divisor > 0).all()
    changed = divisor[divisor != 1]
    if changed.size == 6:
        assert np.log(changed.astype(np.float64)).mean() == pytest.approx(0, abs=1e-4)


def test_migration_follows_smoothquant() -> None:
    largest, weight = np.array([100, 1], np.float32), np.array([0.01, 1], np.float32)

    divisor = migration(largest, weight, 0.5)

    assert divisor[0] / divisor[1] == pytest.approx((100 / 0.01) ** 0.5)


def test_dead_channels_are_not_migrated() -> None:
    divisor = migration(np.array([0, 2, 3], np.float32), np.array([1, 1, 0], np.float32), 0.5)

    assert divisor.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_the_reference(name: str) -> None:
    u = np.linspace(-12, 12, 4001, dtype=np.float32)

    assert activated(name, u) == pytest.approx(activate(name, u.astype(np.float64)), abs=2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden_values_use_the_range_that_they_have(name: str) -> None:
    active = activated(name, RNG.standard_normal((300, 32)).astype(np.float32))

    scale = hidden_scale(active, np.ones(300, np.float32), np.ones(32, np.float32))

    restored = (round_hidden(active, scale) - scale.zero) / scale.multiplier
    symmetric = 127 / np.abs(active).max()
    rounded = np.rint(active * symmetric) / symmetric
    assert np.square(restored - active).sum() < np.square(rounded - active).sum()
    assert -128 <= scale.zero <= 127


def test_only_tokens_that_run_a_learner_set_its_scale() -> None:
    active = np.ones((4, 3), np.float32)
    active[3] = 100
    runs = np.array([1, 1, 1, 0], np.float32)

    scale = hidden_scale(active, runs, np.ones(3, np.float32))

    restored = (round_hidden(active[:3], scale) - scale.zero) / scale.multiplier
    assert restored == pytest.approx(np.ones((3, 3)), abs=0.02 * 30)


def test_hidden_values_of_0_get_a_scale() -> None:
    scale = hidden_scale(np.zeros((4, 3), np.float32), np.ones(4, np.float32), np.ones(3, np.float32))

    assert (scale.multiplier, scale.zero) == (1, 0)
