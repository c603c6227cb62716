"""When the outputs of an engine count as those of its file."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from calibration_files import LAYERS

from acm_export.base.errors import AcmWarning, EngineError
from acm_export.engine.agreement import Agreement, Reference, agreement
from acm_export.engine.check import judge
from acm_export.engine.passport import Comparison

LAYER = LAYERS[0]
"""Four learners, none of which always runs."""


def reference(logits: np.ndarray, counts: list[list[int]]) -> Reference:
    outputs = {"y": np.array([[4.0], [2.0]], np.float32)}
    return Reference(
        outputs, {"a": np.array(counts, np.int32)}, {"a": logits.astype(np.float32)}, {"a": np.zeros(4, np.float32)}
    )


def actual(y: list[float], counts: list[list[int]] | None) -> dict[str, np.ndarray]:
    given = {} if counts is None else {"counts/a": np.array(counts, np.int32)}
    return {"y": np.array(y, np.float32)[:, None]} | given


COUNTS = [[1, 2], [3, 3]]
LOGITS = np.random.default_rng(0).standard_normal((2, 2, 5))


def test_errors_are_taken_over_samples_that_were_routed_alike() -> None:
    found = agreement(reference(LOGITS, COUNTS), actual([4.5, 9], [[1, 2], [3, 4]]), [LAYER])
    assert found.errors == (0.125,)
    assert (found.samples, found.rerouted, found.tokens) == (2, 1, 4)
    alike = agreement(reference(LOGITS, COUNTS), actual([4.5, 2], COUNTS), [LAYER])
    assert alike == Agreement((0.125, 0.0), 2, 0, 4)


def test_without_counts_every_sample_is_compared() -> None:
    found = agreement(reference(LOGITS, COUNTS), actual([4.0, 9], None), [LAYER])
    assert found == Agreement((0.0, 1.75), 2, None, 4)


def test_the_margin_distance_is_that_of_the_first_learner_decided_differently() -> None:
    logits = np.zeros((2, 2, 5))
    logits[1, 1] = [0, 0, 0, 0, 0.25]  # margins 0.25, 0.25, 0.25, 0.25
    logits[0, 0] = [0, 7, 0, 0, 0]  # margins 7, -7, -7, -7
    found = agreement(reference(logits, [[1, 0], [0, 4]]), actual([4, 2], [[1, 0], [0, 2]]), [LAYER])
    margins = np.array([7, -7, -7, -7] + [0] * 8 + [0.25] * 4)
    assert found.margin_distance == pytest.approx(0.25 / margins.std())


def test_only_the_first_layer_of_a_sample_that_differs_is_judged() -> None:
    both = [LAYER, LAYERS[1]]
    near, far = np.zeros((2, 2, 5)), np.zeros((2, 2, 3))
    near[0, 0], far[0, 0] = [0, 1e-6, 0, 0, 0], [9, 0, 0]
    near[1, 1] = [0, 5, 0, 0, 0]
    expected = Reference(
        {"y": np.ones((2, 1), np.float32)},
        {"a": np.array([[1, 0], [0, 1]], np.int32), "b": np.ones((2, 2), np.int32)},
        {"a": near.astype(np.float32), "b": far.astype(np.float32)},
        {"a": np.zeros(4, np.float32), "b": np.zeros(3, np.float32)},
    )
    ran = {
        "y": np.ones((2, 1), np.float32),
        "counts/a": np.array([[0, 0], [0, 1]], np.int32),
        "counts/b": np.array([[3, 1], [1, 1]], np.int32),
    }
    found = agreement(expected, ran, both)
    assert found.rerouted == 2
    assert found.margin_distance < 1e-5


def test_nan_on_one_side_only_is_a_disagreement() -> None:
    expected = reference(LOGITS, COUNTS)
    assert math.isnan(agreement(expected, actual([math.nan, 2], COUNTS), [LAYER]).errors[0])
    both = Reference({"y": actual([math.nan, 2], None)["y"]}, expected.counts, expected.logits, expected.thresholds)
    assert agreement(both, actual([math.nan, 2], COUNTS), [LAYER]).errors == (0.0, 0.0)
    with pytest.raises(EngineError, match="NaN"):
        judge([agreement(expected, actual([math.nan, 2], COUNTS), [LAYER])], "fp32", 1)


def test_other_outputs_are_rejected() -> None:
    with pytest.raises(EngineError, match="outputs of the engine are"):
        agreement(reference(LOGITS, COUNTS), {"z": np.zeros((2, 1))}, [LAYER])
    with pytest.raises(EngineError, match="outputs of the engine are"):
        agreement(reference(LOGITS, COUNTS), {"y": np.zeros((2, 2))}, [LAYER])


def test_judgement() -> None:
    good = Agreement((1e-6, 2e-5), 3, 2, 40, 5e-4)
    assert judge([good, good], "fp32", 2) == Comparison(2, 2e-5, 6, 4, 4, 80)
    with pytest.raises(EngineError, match=r"1 of 2 samples exceed the tolerance of 0\.0001"):
        judge([Agreement((1e-6, 2e-3), 2, 0, 40)], "fp32", 1)
    with pytest.raises(EngineError, match="standard deviations"):
        judge([Agreement((1e-6,), 2, 1, 40, 0.5)], "fp32", 1)
    assert judge([Agreement((1e-3,), 2, 1, 40, 0.05)], "fp16", 1).routed_differently == 1


def test_unmeasured_errors_are_a_warning() -> None:
    with pytest.warns(AcmWarning, match="no error was measured"):
        assert judge([Agreement((), 2, 2, 40, 1e-4)], "fp32", 1).error is None
    with pytest.warns(AcmWarning, match="1 of 3 samples differ"):
        assert judge([Agreement((1e-6, 1e-6, 0.5), 3, None, 40)], "fp32", 1).routed_differently is None
    with pytest.raises(EngineError, match="2 of 3 samples exceed"):
        judge([Agreement((1e-6, 0.4, 0.5), 3, None, 40)], "fp32", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge([Agreement((1e-6,), 1, 0, 40)], "fp32", 1)
