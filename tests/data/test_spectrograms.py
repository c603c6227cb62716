"""Sounds for models that take spectrograms: computed by the model's own feature extractor."""

from __future__ import annotations

import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import transformers
from user_data import write_wav

from acm_export.base.errors import AcmWarning, MissingDependencyError, UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.dataset import Dataset

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
WHISPER = (GraphInput("input_features", ("batch", 8, 20), FLOAT),)
AST = (GraphInput("input_values", ("batch", 12, 8), FLOAT),)
SPEECH2TEXT = (
    GraphInput("input_features", ("batch", "frames", 8), FLOAT),
    GraphInput("attention_mask", ("batch", "frames"), INT, 2),
)
EXTRACTORS = {
    "whisper": (transformers.WhisperFeatureExtractor, {"feature_size": 8, "chunk_length": 1, "hop_length": 800}),
    "ast": (transformers.ASTFeatureExtractor, {"num_mel_bins": 8, "max_length": 12}),
    "speech2text": (transformers.Speech2TextFeatureExtractor, {"num_mel_bins": 8, "feature_size": 8}),
}


def extractor(name: str) -> Any:
    made, settings = EXTRACTORS[name]
    return made(**settings)


def wave(samples: int) -> np.ndarray[Any, Any]:
    return (9000 * np.sin(np.arange(samples) ** 1.3 / 50)).astype("<i2")


def speech(folder: Path, lengths: tuple[int, ...]) -> Path:
    folder.mkdir(parents=True)
    for i, samples in enumerate(lengths):
        write_wav(folder / f"{i}.wav", wave(samples))
    return folder


def expected(name: str, samples: int) -> Any:
    return extractor(name)(wave(samples).astype(np.float32) / 32768, sampling_rate=16000, return_tensors="np")


def opened(tmp_path: Path, name: str, inputs: tuple[GraphInput, ...], data: Any, **options: Any) -> Dataset:
    extractor(name).save_pretrained(tmp_path / "model")
    return open_data(data, inputs, model_folder=tmp_path / "model", **options)


@pytest.mark.parametrize(("name", "inputs"), [("whisper", WHISPER), ("ast", AST), ("speech2text", SPEECH2TEXT)])
def test_spectrograms_are_those_of_the_models_feature_extractor(
    tmp_path: Path, name: str, inputs: tuple[GraphInput, ...]
) -> None:
    samples = opened(tmp_path, name, inputs, speech(tmp_path / "speech", (2000, 1600)))
    assert len(samples) == 2
    for i, length in enumerate((2000, 1600)):
        made = expected(name, length)
        assert samples[i].keys() == {value.name for value in inputs}
        for value in inputs:
            np.testing.assert_array_equal(samples[i][value.name], made[value.name][0])
            assert samples[i][value.name].dtype == value.dtype


def test_a_column_is_the_same_as_a_folder(tmp_path: Path) -> None:
    from_folder = opened(tmp_path, "whisper", WHISPER, speech(tmp_path / "speech", (2000,)))
    rows = [{"audio": {"array": wave(2000) / 32768, "sampling_rate": 16000}}]
    from_column = opened(tmp_path, "whisper", WHISPER, rows)
    np.testing.assert_array_equal(from_column[0]["input_features"], from_folder[0]["input_features"])


def test_a_saved_dataset_with_encoded_sounds_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = speech(tmp_path / "speech", (2000,))
    column = datasets.Dataset.from_dict({"audio": [{"bytes": (folder / "0.wav").read_bytes(), "path": None}]})
    column.cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "saved")
    samples = opened(tmp_path, "whisper", WHISPER, tmp_path / "saved")
    np.testing.assert_array_equal(samples[0]["input_features"], expected("whisper", 2000)["input_features"][0])


def test_spectrograms_of_different_lengths_are_padded_and_masked(tmp_path: Path) -> None:
    (batch,) = opened(tmp_path, "speech2text", SPEECH2TEXT, speech(tmp_path / "speech", (2000, 1000))).batches(2)
    assert batch.feeds["input_features"].shape == (2, 11, 8)
    assert batch.feeds["attention_mask"].sum(1).tolist() == [11, 4]
    assert not batch.feeds["input_features"][1, 4:].any()


@pytest.mark.parametrize(
    ("name", "inputs", "fits", "seconds"), [("whisper", WHISPER, 16000, "1"), ("ast", AST, 2319, "0.1449")]
)
def test_sounds_that_are_cut_are_counted(
    tmp_path: Path, name: str, inputs: tuple[GraphInput, ...], fits: int, seconds: str
) -> None:
    folder = speech(tmp_path / "speech", (1000, fits + 1, fits, 30000))
    message = rf"2 of the 4 sounds in .*speech were cut to {seconds} s, the most that the model takes"
    with pytest.warns(AcmWarning, match=message):
        opened(tmp_path, name, inputs, folder)
    rows = [{"audio": {"array": wave(n) / 32768, "sampling_rate": 16000}} for n in (fits, fits + 1, 30000)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = opened(tmp_path, name, inputs, rows)
        assert samples[0]
    with pytest.warns(AcmWarning, match=rf"sample 1 of .* was cut to {seconds} s.*so are all longer") as caught:
        list(map(samples.__getitem__, range(3)))
    assert len(caught) == 1


def test_folders_with_names_of_classes_are_labels(tmp_path: Path) -> None:
    for name in ("yes", "no"):
        speech(tmp_path / "speech" / name, (1600, 1700))
    samples = opened(tmp_path, "ast", AST, tmp_path / "speech", classes=("up", "no", "yes"))
    assert samples.labels is not None
    assert samples.labels.tolist() == [1, 2, 1, 2], "classes alternate"
    assert samples[1]["labels"] == 2
    np.testing.assert_array_equal(samples[1]["input_values"], expected("ast", 1600)["input_values"][0])
    assert opened(tmp_path, "ast", AST, tmp_path / "speech", classes=("up", "no")).labels is None
    speech(tmp_path / "speakers" / "no", (1600,))
    write_wav(tmp_path / "speakers" / "a.wav", wave(1600))
    assert opened(tmp_path, "ast", AST, tmp_path / "speakers", classes=("up", "no")).labels is None


@pytest.mark.parametrize("place", ["folder", "file"])
def test_the_settings_may_be_elsewhere_or_within_those_of_a_processor(tmp_path: Path, place: str) -> None:
    extractor("whisper").save_pretrained(tmp_path / "other")
    settings = tmp_path / "other" / "preprocessor_config.json"
    nested = {"feature_extractor": json.loads(settings.read_text()), "processor_class": "WhisperProcessor"}
    settings.unlink()
    (tmp_path / "other" / "processor_config.json").write_text(json.dumps(nested))
    processor = tmp_path / "other" if place == "folder" else tmp_path / "other" / "processor_config.json"
    folder = speech(tmp_path / "speech", (2000,))
    samples = open_data(folder, WHISPER, model_folder=tmp_path, processor=processor)
    np.testing.assert_array_equal(samples[0]["input_features"], expected("whisper", 2000)["input_features"][0])


def test_without_settings_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no preprocessor_config\.json in") as refusal:
        open_data(speech(tmp_path / "speech", (2000,)), WHISPER, model_folder=tmp_path)
    assert "--processor" in str(refusal.value.hint)


def test_without_transformers_the_error_tells_how_to_prepare_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = speech(tmp_path / "speech", (2000,))
    extractor("whisper").save_pretrained(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="computed by the package transformers, which is not") as refusal:
        open_data(folder, WHISPER, model_folder=tmp_path / "model")
    assert "pip install" in str(refusal.value.hint)
    assert "np.savez(" in str(refusal.value.hint)


def test_packages_that_the_extractor_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_torchaudio(*_: object, **__: object) -> object:
        raise ImportError("\nASTFeatureExtractor requires the torchaudio library but it was not found\n")

    monkeypatch.setattr(transformers.ASTFeatureExtractor, "__call__", needs_torchaudio)
    samples = opened(tmp_path, "ast", AST, speech(tmp_path / "speech", (2000,)))
    with pytest.raises(MissingDependencyError, match="not installed: ASTFeatureExtractor requires the torchaudio"):
        samples[0]
    monkeypatch.setattr(transformers.AutoFeatureExtractor, "from_pretrained", needs_torchaudio)
    with pytest.raises(MissingDependencyError, match="not installed: ASTFeatureExtractor requires the torchaudio"):
        opened(tmp_path, "ast", AST, tmp_path / "speech")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_extractor_type": "NoSuchExtractor"}, "cannot make a feature extractor of preprocessor_config.json"),
        ({"sampling_rate": 16000}, "cannot make a feature extractor of preprocessor_config.json"),
    ],
)
def test_settings_of_no_feature_extractor_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=message):
        open_data(speech(tmp_path / "speech", (2000,)), WHISPER, model_folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "inputs", "sound", "rate", "message"),
    [
        ("whisper", WHISPER, wave(2000), 8000, "has 8000 samples per second; the model takes 16000"),
        ("whisper", WHISPER, wave(0), 16000, "is empty"),
        ("speech2text", SPEECH2TEXT, wave(300), 16000, "300 samples"),
        ("ast", WHISPER, wave(2000), 16000, "the model takes input_features"),
        ("whisper", (GraphInput("input_features", ("batch", 9, 20), FLOAT),), wave(2000), 16000, r"float32 \[8, 20\]"),
    ],
)
def test_sounds_that_cannot_be_used_are_named(
    tmp_path: Path, name: str, inputs: tuple[GraphInput, ...], sound: np.ndarray[Any, Any], rate: int, message: str
) -> None:
    (tmp_path / "speech").mkdir()
    write_wav(tmp_path / "speech" / "a.wav", sound, rate)
    samples = opened(tmp_path, name, inputs, tmp_path / "speech")
    with pytest.raises(UsageError, match=message):
        samples[0]


def test_sounds_for_a_model_of_images_are_refused(tmp_path: Path) -> None:
    images = (GraphInput("pixel_values", ("batch", 3, 8, 8), FLOAT),)
    with pytest.raises(UsageError, match=r"is a folder of sounds, which .* the model takes pixel_values"):
        open_data(speech(tmp_path / "speech", (2000,)), images, model_folder=tmp_path)
