"""Controlled routing, and the batches that runs feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from calibration_files import LAYERS, write_images
from exported_files import images

from acm_export.base.errors import UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data
from acm_export.runtimes.session import TappedSession
from acm_export.timing.inputs import MAX_BATCHES, InputBatches, check_batch_sizes, data_batches, random_batches
from acm_export.timing.routing import (
    all_or_least,
    bounded,
    can_be_skewed,
    flat,
    least,
    measured_budget,
    most,
    skewed,
)

if TYPE_CHECKING:
    from pathlib import Path

INF = float("inf")
PIXELS = GraphInput("x", ("batch", 1, 8, "width"), np.dtype(np.float32))
IDS = GraphInput("ids", ("batch", "width"), np.dtype(np.int64))


@pytest.fixture(scope="module")
def session(vit_files: Path) -> TappedSession:
    return TappedSession(vit_files / "m.onnx")


def feeds() -> InputBatches:
    return InputBatches(tuple({"pixel_values": images(batch).numpy()} for batch in (3, 4)), None)


def counts(session: TappedSession, thresholds: Any, fed: InputBatches) -> list[np.ndarray[Any, Any]]:
    ran = [session.run(batch, flat(session.layers, thresholds))[1] for batch in fed.batches]
    return [np.concatenate([c[i].reshape(-1) for c in ran]) for i in range(len(session.layers))]


@pytest.mark.parametrize(("tokens", "passing"), [(-1, 0), (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 5)])
def test_a_threshold_lets_the_given_number_of_tokens_pass_and_never_nan(tokens: int, passing: int) -> None:
    margin = np.array([3, np.nan, 1, -2, 0], np.float32)
    found = int((margin > np.float32(all_or_least(margin, tokens))).sum())
    assert found == min(passing, 4)


def test_equal_margins_at_the_edge_pass_together_or_not_at_all() -> None:
    margin = np.array([1, 1, 1, 0], np.float32)
    assert (margin > all_or_least(margin, 2)).sum() == 0
    assert (margin > all_or_least(margin, 3)).sum() == 3


def test_least_and_most_run_the_fewest_and_all(session: TappedSession) -> None:
    for layer, count in zip(session.layers, counts(session, least(session.layers), feeds()), strict=True):
        assert set(count) == {layer.min_learners}
    for layer, count in zip(session.layers, counts(session, most(session.layers, None), feeds()), strict=True):
        assert set(count) == {layer.num_learners}
    for count in counts(session, most(session.layers, 2), feeds()):
        assert set(count) == {2}
    assert measured_budget(session, feeds(), most(session.layers, None)) == 1


@pytest.mark.parametrize("bound", [None, 3])
def test_skewed_tokens_run_all_or_least_at_the_same_budget(session: TappedSession, bound: int | None) -> None:
    start = {e.name: np.zeros(e.num_learners, np.float32) for e in session.layers}
    start = bounded(start, session.layers, bound)
    found = skewed(session, feeds(), start, bound)
    before, after = counts(session, start, feeds()), counts(session, found, feeds())
    for layer, one, other in zip(session.layers, before, after, strict=True):
        top = bound or layer.num_learners
        assert set(other) <= {layer.min_learners, top}
        assert abs(int(one.sum()) - int(other.sum())) <= (top - layer.min_learners) / 2
    assert any(set(one) - set(other) for one, other in zip(before, after, strict=True))


def test_a_layer_with_one_gated_learner_has_no_skew() -> None:
    assert can_be_skewed(LAYERS)
    assert not can_be_skewed([LAYERS[0].__class__(**(vars(LAYERS[0]) | {"num_learners": 2, "min_learners": 1}))])


def test_random_inputs_have_the_shape_of_the_example_and_the_requested_batch() -> None:
    fed = random_batches([PIXELS, IDS], {"x": [1, 1, 8, 5], "ids": [1, 5]}, 3)
    assert fed.shapes == {"x": [3, 1, 8, 5], "ids": [3, 5]}
    assert len(fed.batches) == MAX_BATCHES
    assert not np.array_equal(fed.batches[0]["x"], fed.batches[1]["x"])
    assert set(fed.batches[0]["ids"].reshape(-1)) == {1}
    assert fed.batches[0]["ids"].dtype == np.int64
    with pytest.raises(UsageError, match=r"has x with shape \[1, 8\]; the model takes"):
        random_batches([PIXELS], {"x": [1, 8]}, 1)


def test_data_are_cut_into_whole_batches(tmp_path: Path) -> None:
    inputs = (GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype(np.float32)),)
    data = open_data(write_images(tmp_path / "d.npz", 11), inputs, model_folder=tmp_path)
    fed = data_batches(data, 4)
    assert [batch["pixel_values"].shape[0] for batch in fed.batches] == [4, 4]
    assert len(data_batches(data, 1).batches) == MAX_BATCHES
    rows = np.load(tmp_path / "d.npz")["pixel_values"]
    assert np.array_equal(np.concatenate([batch["pixel_values"] for batch in fed.batches]), rows[:8])


def test_data_of_two_shapes_are_requests_of_their_own_but_not_one_batch(tmp_path: Path) -> None:
    samples = [{"x": np.zeros((1, 8, width), np.float32)} for width in (4, 6)]
    data = open_data(samples, (PIXELS,), model_folder=tmp_path)
    assert [batch["x"].shape for batch in data_batches(data, 1).batches] == [(1, 1, 8, 4), (1, 1, 8, 6)]
    with pytest.raises(UsageError, match=r"\[1, 8, 4\] and \[1, 8, 6\]"):
        data_batches(data, 2)


def test_a_batch_size_other_than_the_fixed_one_is_refused() -> None:
    fixed = GraphInput("x", (2, 3), np.dtype(np.float32))
    check_batch_sizes([fixed], [2])
    with pytest.raises(UsageError, match="--batch is 1; the model has the fixed batch size 2"):
        check_batch_sizes([fixed], [2, 1])
