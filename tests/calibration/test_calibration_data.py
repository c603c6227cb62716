"""Calibration data: streaming, the split, images, and data that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_files import write_images
from PIL import Image

from acm_export.base.errors import UsageError
from acm_export.calibration.data import CalibrationData
from acm_export.data.batches import GraphInput
from acm_export.data.dataset import held_out
from acm_export.data.images import ImageFolder
from acm_export.data.open_data import open_data
from acm_export.data.token_masks import TokenMasks

PIXELS = GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype(np.float32))


def samples_of(batches: Any) -> list[float]:
    return [float(image[0, 0, 0]) for batch in batches for image in batch.feeds["pixel_values"]]


def opened(data: Any, inputs: tuple[GraphInput, ...] = (PIXELS,), limit: int | None = None, **options: Any) -> Any:
    dataset = open_data(data, inputs, model_folder=Path(), limit=limit)
    return CalibrationData(dataset, **options)


def test_the_same_samples_are_held_out_for_any_batch_size(tmp_path: Path) -> None:
    path = write_images(tmp_path / "d.npz", 23)
    images = np.load(path)["pixel_values"][:, 0, 0, 0].astype(float)
    marks = held_out(23)
    for size in (1, 4, 7, 100):
        data = opened(path, batch_size=size)
        assert samples_of(data.held_out()) == images[marks].tolist()
        assert samples_of(data.calibration()) == images[~marks].tolist()
        survey = data.survey()
        assert (survey.samples, survey.held_out) == (19, 4)
    assert len({opened(path, batch_size=n).survey().sha256 for n in (2, 23)}) == 1


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_one_in_five_is_held_out_and_covers_alternating_classes(classes: int) -> None:
    marks = held_out(1003)
    assert not marks[1000:].any()
    assert (marks[:1000].reshape(-1, 5).sum(1) == 1).all()
    shares = np.bincount(np.flatnonzero(marks) % classes, minlength=classes) / 200
    assert (np.abs(shares - 1 / classes) < 0.02).all()
    assert (held_out(500) == marks[:500]).all()


def test_a_limit_takes_the_first_samples(tmp_path: Path) -> None:
    path = write_images(tmp_path / "d.npz", 20)
    data = opened(path, limit=11, batch_size=8)
    images = np.load(path)["pixel_values"][:11, 0, 0, 0].astype(float)
    assert sorted(samples_of(data.calibration()) + samples_of(data.held_out())) == sorted(images.tolist())


def test_probe_samples_are_spread_over_the_data(tmp_path: Path) -> None:
    data = opened(write_images(tmp_path / "d.npz", 100), batch_size=8)
    every = samples_of(data.calibration())
    for samples in (1, 7, 80, 1000):
        places = [every.index(value) for value in samples_of(data.probe(samples))]
        assert len(places) == min(samples, 80)
        assert max(np.diff([-1, *places, 80])) <= 80 // len(places) + 80 % len(places) + 79 * (samples == 1)


def test_a_model_with_a_fixed_batch_gets_whole_batches(tmp_path: Path) -> None:
    fixed = GraphInput("pixel_values", (4, 1, 8, 8), np.dtype(np.float32))
    data = opened(write_images(tmp_path / "d.npz", 23), (fixed,), batch_size=100)
    assert [batch.samples for batch in data.calibration()] == [4, 4, 4, 4]
    assert [batch.samples for batch in data.held_out()] == [4]
    survey = data.survey()
    assert (survey.samples, survey.held_out, survey.batches, survey.unit) == (16, 4, 4, 4)
    assert [[batch.samples for batch in data.probe(n)] for n in (1, 9, 64)] == [[4], [4, 4], [4] * 4]
    with pytest.raises(UsageError, match="has 3 samples; the model's batch size is fixed to 4"):
        opened(write_images(tmp_path / "e.npz", 3), (fixed,))


def test_image_folders_give_pixels_and_alternating_labels(tmp_path: Path) -> None:
    settings = {"size": {"height": 8, "width": 8}, "resample": 0, "image_mean": [0.5], "image_std": [0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "images" / "no-images").mkdir()
    for name, grey in (("cat", 255), ("dog", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (16, 16), grey).save(tmp_path / "images" / name / f"{index}.png")
    data = open_data(tmp_path / "images", (PIXELS,), model_folder=tmp_path)
    (batch,) = data.batches(4)
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 1, 0, 1]
    assert batch.feeds["pixel_values"][:2, 0, 0, 0].tolist() == [2.0, -2.0]
    (tmp_path / "images" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="cannot read the image"):
        list(data.batches(4))


def test_image_folders_without_images_or_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no images"):
        ImageFolder(tmp_path, None, tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"there is no preprocessor_config\.json") as refusal:
        ImageFolder(tmp_path, None, tmp_path)
    assert "--processor" in str(refusal.value.hint)


def test_an_attention_mask_in_the_shape_of_the_tokens_marks_padding() -> None:
    mask = np.array([[1, 1, 0]])
    masks = TokenMasks.of_batch({"attention_mask": mask}, [])
    for shape in ((1, 3), (1, 3, 16)):
        assert masks.of(shape).tolist() == [[True, True, False]]  # type: ignore[union-attr]
    assert masks.of((1, 4)) is None
    assert TokenMasks.of_batch({}, []).of((1, 3)) is None


def test_gate_logits_mark_padding_if_the_mask_has_another_shape() -> None:
    z = np.array([[[0, 1], [-1, -np.inf], [0, -np.inf]]], np.float32)
    masks = TokenMasks.of_batch({"attention_mask": np.ones((1, 60))}, [z, z[..., :1]])
    assert masks.of((1, 3)).tolist() == [[True, False, False]]  # type: ignore[union-attr]
    assert TokenMasks.of_batch({}, [z]).of((1, 3)) is None


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_hash_of_samples_of_different_lengths_does_not_depend_on_the_batch(size: int) -> None:
    inputs = [
        GraphInput("input_ids", ("batch", "tokens"), np.dtype("int64")),
        GraphInput("attention_mask", ("batch", "tokens"), np.dtype("int64")),
    ]
    rows = [{"input_ids": np.arange(1, 2 + i), "labels": [i] * (1 + i % 2)} for i in range(5)]
    dataset = open_data(rows, inputs, model_folder=Path())
    alone = CalibrationData(dataset, batch_size=1).survey().sha256
    assert CalibrationData(dataset, batch_size=size).survey().sha256 == alone
