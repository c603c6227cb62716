"""Calibration data: streaming, the split, images, and what does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from calibration_files import write_images
from PIL import Image

from acm_export.base.errors import UsageError
from acm_export.data.batches import CalibrationData, GraphInput, check_batch
from acm_export.data.images import ImageFolder
from acm_export.data.sources import Function, NpzFile, open_source
from acm_export.data.token_masks import TokenMasks

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype(np.float32))


def samples_of(batches: Any) -> list[float]:
    return [float(image[0, 0, 0]) for batch in batches for image in batch.feeds["pixel_values"]]


def test_every_fifth_sample_is_held_out_whatever_the_batch_size(tmp_path: Path) -> None:
    path = write_images(tmp_path / "d.npz", 23)
    images = np.load(path)["pixel_values"][:, 0, 0, 0].astype(float).tolist()
    for size in (1, 4, 7, 100):
        data = CalibrationData(NpzFile(path), (PIXELS,), batch_size=size)
        assert samples_of(data.held_out()) == images[4::5]
        assert samples_of(data.calibration()) == [v for i, v in enumerate(images) if i % 5 != 4]
        survey = data.survey()
        assert (survey.samples, survey.held_out) == (19, 4)
    assert len({CalibrationData(NpzFile(path), (PIXELS,), batch_size=n).survey().sha256 for n in (2, 23)}) == 1


def test_a_limit_takes_the_first_samples(tmp_path: Path) -> None:
    data = CalibrationData(NpzFile(write_images(tmp_path / "d.npz", 20)), (PIXELS,), batch_size=8, limit=11)
    assert len(samples_of(data.calibration())) + len(samples_of(data.held_out())) == 11


def test_probing_takes_samples_from_all_over_the_data(tmp_path: Path) -> None:
    data = CalibrationData(NpzFile(write_images(tmp_path / "d.npz", 100)), (PIXELS,), batch_size=8)
    survey, every = data.survey(), samples_of(data.calibration())
    for samples in (1, 7, 80, 1000):
        places = [every.index(value) for value in samples_of(data.probe(samples, survey))]
        assert len(places) == min(samples, 80)
        assert max(np.diff([-1, *places, 80])) <= 80 // len(places) + 80 % len(places) + 79 * (samples == 1)


def test_a_model_with_a_fixed_batch_gets_whole_batches(tmp_path: Path) -> None:
    fixed = GraphInput("pixel_values", (4, 1, 8, 8), np.dtype(np.float32))
    data = CalibrationData(NpzFile(write_images(tmp_path / "d.npz", 23)), (fixed,), batch_size=100)
    assert [batch.samples for batch in data.calibration()] == [4, 4, 4, 4]
    assert [batch.samples for batch in data.held_out()] == [4]
    survey = data.survey()
    assert (survey.batches, survey.held_out_batches) == (4, 1)
    assert [[batch.samples for batch in data.probe(n, survey)] for n in (1, 9, 64)] == [[4], [4, 4], [4] * 4]
    with pytest.raises(UsageError, match="no samples of 4, the batch that the model takes"):
        CalibrationData(NpzFile(write_images(tmp_path / "e.npz", 3)), (fixed,)).survey()


def test_what_does_not_fit_is_named_with_both_sides() -> None:
    ids = GraphInput("input_ids", ("batch", "tokens"), np.dtype(np.int64))
    image = np.zeros((3, 1, 8, 8), np.float32)
    cases: list[tuple[dict[str, Any], tuple[GraphInput, ...], str]] = [
        ({"pixels": image}, (PIXELS,), "f holds pixels; the model takes pixel_values"),
        (
            {"pixel_values": image[:, :, :5]},
            (PIXELS,),
            r"pixel_values is float32 \[3, 1, 5, 8\], the model takes float32",
        ),
        (
            {"input_ids": np.zeros((3, 2))},
            (ids,),
            r"input_ids is float64 \[3, 2\], the model takes int64 \[batch, tokens\]",
        ),
        ({"pixel_values": np.full((3, 1, 8, 8), "a")}, (PIXELS,), "pixel_values is <U1"),
        ({"pixel_values": np.zeros((3, 1, 8, 8), np.uint8)}, (PIXELS,), "pixel_values is uint8"),
        ({"pixel_values": image * np.nan}, (PIXELS,), "pixel_values holds NaN or infinity"),
        ({"pixel_values": image, "labels": np.zeros(2, int)}, (PIXELS,), "different lengths"),
        ({"pixel_values": image, "labels": np.zeros((3, 2))}, (PIXELS,), r"labels is float64 \[3, 2\]"),
    ]
    for arrays, inputs, reason in cases:
        with pytest.raises(UsageError, match=reason):
            check_batch(arrays, inputs, "f")


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "objects.npz", pixel_values=np.array([object()], dtype=object))
    np.savez(tmp_path / "empty.npz", pixel_values=np.zeros((0, 1, 8, 8), np.float32))
    for name, reason in (("text", "is not an .npz"), ("objects", "is not an .npz"), ("empty", "has no samples")):
        with pytest.raises(UsageError, match=reason):
            CalibrationData(NpzFile(tmp_path / f"{name}.npz"), (PIXELS,)).survey()
    for text, reason in (("nowhere.npz", "no file or folder"), ("json:nothing", "cannot import json:nothing")):
        with pytest.raises(UsageError, match=reason):
            open_source(text, None, tmp_path)


def test_a_function_yields_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_feeds.py").write_text(
        "import numpy as np\n"
        "def feeds():\n    yield {'pixel_values': np.zeros((2, 1, 8, 8)), 'labels': np.array([1, 2])}\n"
        "def wrong():\n    yield 3\n"
        "def failing():\n    yield 1 / 0\n"
        "def nothing():\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    (batch,) = CalibrationData(Function("my_feeds", "feeds"), (PIXELS,)).calibration()
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 2]
    assert batch.feeds["pixel_values"].dtype == np.float32
    with pytest.raises(UsageError, match="yields int, expected a dict"):
        CalibrationData(Function("my_feeds", "wrong"), (PIXELS,)).survey()
    for function, reason in (("failing", "failed: ZeroDivisionError"), ("nothing", "failed: TypeError")):
        with pytest.raises(UsageError, match=reason):
            CalibrationData(Function("my_feeds", function), (PIXELS,)).survey()


def test_image_folders_give_pixels_and_alternating_labels(tmp_path: Path) -> None:
    settings = {"size": {"height": 8, "width": 8}, "resample": 0, "image_mean": [0.5], "image_std": [0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "images" / "no-images").mkdir()
    for name, grey in (("cat", 255), ("dog", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (16, 16), grey).save(tmp_path / "images" / name / f"{index}.png")
    source = ImageFolder(tmp_path / "images", None, tmp_path)
    (batch,) = CalibrationData(source, (PIXELS,)).calibration()
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 1, 0, 1]
    assert batch.feeds["pixel_values"][:2, 0, 0, 0].tolist() == [2.0, -2.0]
    (tmp_path / "images" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="is not an image that can be read"):
        list(source.batches(4, [PIXELS.name]))


def test_image_folders_without_images_or_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        ImageFolder(tmp_path, None, tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"there is no preprocessor_config\.json") as refusal:
        ImageFolder(tmp_path, None, tmp_path)
    assert "--processor" in str(refusal.value.hint)


def test_the_attention_mask_marks_tokens_where_it_has_their_shape() -> None:
    mask = np.array([[1, 1, 0]])
    masks = TokenMasks.of_batch({"attention_mask": mask}, [])
    for shape in ((1, 3), (1, 3, 16)):
        assert masks.of(shape).tolist() == [[True, True, False]]  # type: ignore[union-attr]
    assert masks.of((1, 4)) is None
    assert TokenMasks.of_batch({}, []).of((1, 3)) is None


def test_gate_logits_mark_padding_where_the_mask_has_another_shape() -> None:
    z = np.array([[[0, 1], [-1, -np.inf], [0, -np.inf]]], np.float32)
    masks = TokenMasks.of_batch({"attention_mask": np.ones((1, 60))}, [z, z[..., :1]])
    assert masks.of((1, 3)).tolist() == [[True, False, False]]  # type: ignore[union-attr]
    assert TokenMasks.of_batch({}, [z]).of((1, 3)) is None
