"""Examples for the report: which inputs are drawn, and where their learners ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from calibration_files import LAYERS

from acm_export.calibration.examples import AudioExample, ImageExample, find_examples
from acm_export.data.batches import Batch
from acm_export.report.calibration_charts import example_audio, example_image

if TYPE_CHECKING:
    from acm_export.runtimes.session import TappedSession


class Ran:
    """A session that returns given counts of both layers, ``[samples, tokens]``."""

    layers = LAYERS

    def __init__(self, *counts: np.ndarray) -> None:  # type: ignore[type-arg]
        self._counts = list(counts)

    def run(self, *_: object) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:  # type: ignore[type-arg]
        return {}, self._counts


def examples_of(batch: Batch, *counts: np.ndarray) -> tuple[ImageExample | AudioExample, ...]:  # type: ignore[type-arg]
    return find_examples(cast("TappedSession", Ran(*counts)), [batch], np.zeros(7, np.float32), each=1)


def test_images_keep_the_cheapest_and_the_costliest_with_shares_over_their_patches() -> None:
    images = np.arange(3 * 16, dtype=np.float32).reshape(3, 1, 4, 4)
    counts = np.array([[0, 4, 0, 0, 0], [2, 2, 2, 2, 2], [3, 3, 3, 3, 3]], np.int32)  # the class token comes first
    cheap, costly = examples_of(Batch({"pixel_values": images}, np.array([7, 8, 9])), counts, np.minimum(counts, 3))
    assert isinstance(cheap, ImageExample)
    assert (cheap.label, costly.label) == (7, 9)
    full, share = 64 * 4 + 32 * 3, 64 * 4 + 32 * 3
    assert cheap.shares.tolist() == [[share / full, 0.0], [0.0, 0.0]]
    assert cheap.budget == pytest.approx(share / full / 5)
    assert costly.budget == pytest.approx((64 * 3 + 32 * 3) / full)
    assert cheap.pixels.shape == (4, 4, 1)
    assert example_image(cheap).startswith("<svg")


@pytest.mark.parametrize("tokens", [7, 12])
def test_tokens_that_do_not_form_a_square_grid_are_not_drawn(tokens: int) -> None:
    counts = np.ones((2, tokens), np.int32)
    assert examples_of(Batch({"pixel_values": np.zeros((2, 3, 8, 8), np.float32)}), counts, counts) == ()


def test_sounds_are_drawn_with_a_share_for_each_token() -> None:
    sounds = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    counts = np.array([[3] * 6, [0, 0, 0, 3, 3, 3]], np.int32)
    batch = Batch({"input_values": sounds, "attention_mask": np.ones((2, 3000), np.int64)})
    cheap, costly = examples_of(batch, counts, counts)
    assert isinstance(cheap, AudioExample)
    assert cheap.shares[0] == 0
    assert costly.shares.tolist() == [cheap.shares[-1]] * 6
    assert cheap.envelope.shape == (400, 2)
    assert cheap.envelope.min() == sounds[1].min()
    assert cheap.envelope.max() == sounds[1].max()
    assert example_audio(cheap).startswith("<svg")


def test_text_and_layers_that_see_different_tokens_have_no_examples() -> None:
    counts = np.ones((2, 4), np.int32)
    images = np.zeros((2, 1, 8, 8), np.float32)
    assert examples_of(Batch({"input_ids": np.zeros((2, 4), np.int64)}), counts, counts) == ()
    assert examples_of(Batch({"pixel_values": images}), counts, counts[:, :3]) == ()
