"""Files of users: what reaches the model is compared with Pillow, NumPy and soundfile by hand, or refused by name."""

from __future__ import annotations

import io
import json
import warnings
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data
from acm_export.data.user_function import import_function

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.dataset import Dataset

PIXELS = GraphInput("pixel_values", ("batch", 1, 8, 8), np.dtype("float32"))
COLOURS = GraphInput("pixel_values", ("batch", 3, 8, 8), np.dtype("float32"))
SOUND = GraphInput("input_values", ("batch", "samples"), np.dtype("float32"))
SETTINGS: dict[str, Any] = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.25]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return settings(tmp_path / "data", SETTINGS)


def settings(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def opened(data: object, value: GraphInput = PIXELS, model: Path | None = None, **options: Any) -> Dataset:
    return open_data(data, [value], model_folder=model or data, **options)  # type: ignore[arg-type]


def save(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_eight_bits_are_refused_not_cut_off(folder: Path, mode: str) -> None:
    suffix = "png" if mode == "I;16" else "tif"
    save(folder / f"deep.{suffix}", Image.new(mode, (8, 8), 1000))
    with pytest.raises(UsageError, match=rf"deep.{suffix} has pixels of more than 8 bits \(Pillow mode {mode[:4]}"):
        opened(folder)[0]


def test_an_image_is_turned_as_its_orientation_says(folder: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    save(folder / "turned.png", grey, exif=exif)
    by_hand = (np.rot90(np.arange(64.0).reshape(8, 8), -1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(opened(folder)[0]["pixel_values"][0], by_hand, rtol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(33, 47), (101, 37)])
def test_the_longer_side_is_rounded_down_as_transformers_does(tmp_path: Path, width: int, height: int) -> None:
    content = {
        "size": {"shortest_edge": 9},
        "do_center_crop": True,
        "crop_size": 8,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    folder = settings(tmp_path / "data", content)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    save(folder / "a.png", Image.fromarray(noise))
    short = min(width, height)
    scaled = np.asarray(Image.fromarray(noise).resize((int(9 * width / short), int(9 * height / short)), 2))
    top, left = (scaled.shape[0] - 8) // 2, (scaled.shape[1] - 8) // 2
    by_hand = (scaled[top : top + 8, left : left + 8] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(opened(folder, COLOURS)[0]["pixel_values"], by_hand.transpose(2, 0, 1), atol=1e-5)


def test_images_that_are_not_looked_at_are_named(folder: Path) -> None:
    for place in ("cat/1.png", "dog/1.png", "dog/more/2.png", "3.png", ".hidden/4.png", "cat/.5.png"):
        save(folder / place, Image.new("L", (8, 8)))
    (folder / "cat" / "folder.png").mkdir()
    with pytest.warns(AcmWarning, match=r"2 of the images in .* are not used, such as .*3\.png: images must be in"):
        data = opened(folder)
    assert len(data) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(folder / "cat", model=folder)


def test_images_nested_too_deeply_are_named(folder: Path) -> None:
    save(folder / "train" / "cat" / "1.png", Image.new("L", (8, 8)))
    with pytest.raises(UsageError, match=r"nested too deeply, such as .*1\.png: images must be in the folder itself"):
        opened(folder)


def test_a_class_named_by_a_digit_that_is_no_number_counts_as_a_name(folder: Path) -> None:
    for name in ("²", "7"):
        save(folder / name / "1.png", Image.new("L", (8, 8)))
    assert [int(opened(folder)[i]["labels"]) for i in range(2)] == [0, 1]


def test_images_for_a_model_that_takes_none_are_refused_before_settings_are_looked_for(tmp_path: Path) -> None:
    save(tmp_path / "1.png", Image.new("L", (8, 8)))
    with pytest.raises(UsageError, match="is a folder of images, which has pixel_values; the model takes input_values"):
        opened(tmp_path, SOUND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"height": 0, "width": 8}}, r"sizes are \[0, 8\]; expected whole numbers from 1"),
        ({"size": {"height": 8, "width": -8}}, r"sizes are \[8, -8\]"),
        ({"size": {"height": 10**8, "width": 10**8}}, "expected whole numbers from 1 to 16384"),
        ({"size": {"shortest_edge": "8"}}, r"sizes are \['8'\]"),
        ({"image_std": [0.0]}, r"image_std is \[0\.0\]; expected positive numbers"),
        ({"image_mean": [0.5, 0.5], "image_std": [1.0, 1.0]}, r"have the shapes \(2,\) and \(2,\); expected 1 or 3"),
        ({"image_mean": [0.5, 0.5, 0.5]}, r"have the shapes \(3,\) and \(1,\)"),
        ({"resample": 9}, "resample is 9; expected 0 to 5"),
    ],
)
def test_settings_that_no_image_can_be_processed_with_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = settings(tmp_path / "data", SETTINGS | change)
    save(folder / "1.png", Image.new("L", (8, 8)))
    with pytest.raises(UsageError, match=message):
        opened(folder)[0]


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ALAW"])
def test_every_wav_that_soundfile_reads_is_read(tmp_path: Path, subtype: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "1.wav", np.sin(np.arange(400.0)) / 2, 16000, subtype=subtype)
    by_hand = soundfile.read(tmp_path / "1.wav")[0]
    by_hand = (by_hand - by_hand.mean()) / by_hand.std()
    np.testing.assert_allclose(opened(tmp_path, SOUND)[0]["input_values"], by_hand, atol=1e-4)


def _wav(count: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes((9000 * np.sin(np.arange(count))).astype("<i2").tobytes())
    return file.getvalue()


@pytest.mark.parametrize("size", [301, 302])
def test_a_sound_that_is_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "1.wav").write_bytes(_wav(400)[:size])
    with pytest.raises(UsageError, match=f"1.wav is truncated: it has {size - 44} of 800 bytes"):
        opened(tmp_path, SOUND)[0]


def test_a_sound_written_into_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(_wav(400))
    content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "1.wav").write_bytes(content)
    assert opened(tmp_path, SOUND)[0]["input_values"].shape == (400,)


def test_files_beside_sounds_are_no_sounds(tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(_wav(400))
    (tmp_path / "._1.wav").write_bytes(b"x")
    (tmp_path / "2.wav").mkdir()
    assert len(opened(tmp_path, SOUND)) == 1


def test_transcripts_in_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(_wav(400))
    (tmp_path / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"1\.txt cannot be read as text: 'utf-8'"):
        opened(tmp_path, SOUND, transcripts=True)


def test_labels_of_arrays_may_be_named_as_in_datasets(tmp_path: Path) -> None:
    rows = np.zeros((3, 1, 8, 8), np.float32)
    np.savez(tmp_path / "d.npz", pixel_values=rows, label=[2, 0, 1])
    for data in (tmp_path / "d.npz", {"pixel_values": rows, "label": [2, 0, 1]}):
        labels = opened(data, model=tmp_path).labels
        assert labels is not None
        assert labels.tolist() == [2, 0, 1]


def test_no_text_is_not_the_working_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data is empty"):
        opened("", model=tmp_path)


def test_a_file_that_the_system_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    (tmp_path / "d.npz").write_bytes(b"PK")
    monkeypatch.setattr(type(tmp_path), "open", lambda *_: Broken())
    with pytest.raises(UsageError, match=r"cannot read .*d\.npz: Input/output error"):
        opened(tmp_path / "d.npz", model=tmp_path)


@pytest.mark.parametrize("limit", [0, -3])
def test_no_samples_at_all_cannot_be_asked_for(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UsageError, match=f"the number of samples is {limit}; expected at least 1"):
        opened([{}], model=tmp_path, limit=limit)


def test_a_dataset_whose_length_fails_is_named(tmp_path: Path) -> None:
    class Endless:
        def __len__(self) -> int:
            raise RuntimeError("x")

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {}

    with pytest.raises(UsageError, match="has no length: RuntimeError: x"):
        opened(Endless(), model=tmp_path)


def test_a_module_that_exits_when_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="cannot import exits_at_once:make: SystemExit: 3"):
        import_function("exits_at_once:make", "--data")
