"""Datasets of Hugging Face as people load them: columns, formats, splits, streams, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hub_datasets import PIXELS, ROWS, SOUND, TOKENS, greys, model_folder, pictures, waves
from PIL import Image
from user_data import module, write_wav

from acm_export.base.errors import UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.collate import LABELS
from acm_export.data.images import ImageFolder
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.data.dataset import Dataset

datasets = pytest.importorskip("datasets")


INPUTS = {
    PIXELS: GraphInput(PIXELS, ("batch", 1, "height", "width"), np.dtype(np.float32)),
    SOUND: GraphInput(SOUND, ("batch", "samples"), np.dtype(np.float32)),
    TOKENS: GraphInput(TOKENS, ("batch", "tokens"), np.dtype(np.int64)),
    "input_features": GraphInput("input_features", ("batch", 8, "frames"), np.dtype(np.float32)),
    "attention_mask": GraphInput("attention_mask", ("batch", "tokens"), np.dtype(np.int64)),
}


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path, content: Any, *inputs: str) -> Dataset:
    """What a function returns that a user names, for a model that takes these inputs."""
    module(monkeypatch, make=content if callable(content) else lambda: content)
    return open_data("mine_for_tests:make", [INPUTS[name] for name in inputs], model_folder=folder, transcripts=True)


@pytest.mark.parametrize("form", ["lists", "numpy", "torch", "transform"])
def test_columns_named_as_the_inputs_reach_the_model_in_every_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    tokens = [[1, 2, 3], [4], [5, 6]]
    plain = datasets.Dataset.from_dict({TOKENS: tokens, "labels": [0, 2, 1], "text": ["a", "b", "c"]})
    forms: dict[str, Callable[[], Any]] = {
        "lists": lambda: plain,
        "numpy": lambda: plain.with_format("numpy"),
        "torch": lambda: plain.with_format("torch"),
        "transform": lambda: plain.with_transform(lambda rows: {name: rows[name] for name in (TOKENS, "labels")}),
    }
    samples = opened(monkeypatch, tmp_path, forms[form], TOKENS, "attention_mask")
    assert len(samples) == 3
    (whole,) = samples.batches(3)
    batch = whole.named()
    assert batch[TOKENS].tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 1, 2]
    assert batch[LABELS].tolist() == [0, 2, 1]


def test_pictures_are_processed_as_those_in_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate(greys(4)):
        image.save(tmp_path / "images" / f"{i}.png")
    expected = ImageFolder(tmp_path / "images", None, model_folder(tmp_path))
    for column in ("image", "img", "photo"):
        samples = opened(monkeypatch, tmp_path, pictures(column, 4), PIXELS)
        for i in range(4):
            np.testing.assert_array_equal(samples[i][PIXELS], expected[i][PIXELS])
            assert samples[i][LABELS] == i


def test_inputs_that_are_there_win_over_other_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = pictures(count=2).add_column(PIXELS, [[[[1.0]]], [[[2.0]]]]).add_column("labels", [4, 3])
    samples = opened(monkeypatch, tmp_path, given, PIXELS)  # without any settings of a processor
    assert [(samples[i][PIXELS].item(), samples[i][LABELS]) for i in range(2)] == [(1.0, 4), (2.0, 3)]
    tokens = pictures(count=2).add_column(TOKENS, [[1], [2]])
    assert PIXELS not in opened(monkeypatch, tmp_path, tokens, TOKENS)[0]
    heard = datasets.Dataset.from_dict({SOUND: [[0.5, 0.25]], "audio": waves(1), "text": ["?"]})
    sample = opened(monkeypatch, tmp_path, heard, SOUND)[0]
    assert sample[SOUND].tolist() == [0.5, 0.25]
    assert LABELS not in sample


@pytest.mark.parametrize("column", ["text", "sentence", "transcription"])
def test_sounds_are_processed_as_those_in_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, column: str) -> None:
    folder = model_folder(tmp_path, {"sampling_rate": 8000})
    content = {"audio": waves(sampling_rate=8000), column: ["ab c", "BA", "c"]}
    samples = opened(monkeypatch, folder, datasets.Dataset.from_dict(content), SOUND)
    (folder / "speech").mkdir()
    for i in range(3):
        values = np.round(32767 * np.sin(np.arange(400 - 50 * i)))
        write_wav(folder / "speech" / f"{i}.wav", values.astype("<i2"), 8000)
        (folder / "speech" / f"{i}.txt").write_text(content[column][i])
    expected = open_data(folder / "speech", [INPUTS[SOUND]], model_folder=folder, transcripts=True)
    for i in range(3):
        np.testing.assert_array_equal(samples[i][LABELS], expected[i][LABELS])
        np.testing.assert_allclose(samples[i][SOUND], expected[i][SOUND], atol=2e-4)
        assert samples[i][SOUND].dtype == np.float32


class Decoder:
    """As the one that datasets gives from version 4: two items, and neither a mapping nor a length."""

    def __getitem__(self, key: str) -> Any:
        return {"array": np.array([0.5, -0.5], np.float32), "sampling_rate": 16000}[key]


def test_sounds_come_from_decoders_and_from_encoded_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, {"do_normalize": False})
    write_wav(folder / "a.wav", np.array([16384, -16384], "<i2"))
    encoded = (folder / "a.wav").read_bytes()
    forms = ({"bytes": encoded, "path": None}, {"bytes": None, "path": str(folder / "a.wav")}, Decoder())
    for form in forms:
        samples = opened(monkeypatch, folder, [{"audio": form}], SOUND)
        assert samples[0][SOUND].tolist() == [0.5, -0.5]
        assert LABELS not in samples[0]
    column = datasets.Dataset.from_dict({"audio": [encoded]}).cast_column("audio", datasets.Audio(decode=False))
    assert opened(monkeypatch, folder, column, SOUND)[0][SOUND].tolist() == [0.5, -0.5]


@pytest.mark.skipif(not hasattr(datasets.config, "TORCHCODEC_AVAILABLE"), reason="datasets before 4 need no torchcodec")
def test_what_the_library_says_about_its_own_decoder_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    write_wav(tmp_path / "a.wav", np.zeros(9, "<i2"))
    column = datasets.Dataset.from_dict(
        {"audio": [str(tmp_path / "a.wav")]}, features=datasets.Features({"audio": datasets.Value("string")})
    )
    column = column.cast_column("audio", datasets.Audio())
    with pytest.raises(
        UsageError, match=r"mine_for_tests:make failed at sample 0: ImportError: .*torchcodec"
    ) as refusal:
        opened(monkeypatch, tmp_path, column, SOUND)[0]
    assert "decode=False" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("row", "inputs", "message", "hint"),
    [
        ({"audio": {"array": [0.0], "sampling_rate": 1}}, "input_features", "make a feature extractor", "copy"),
        ({"image": [[0]]}, PIXELS, "sample 0 of .* has list in the column image; expected a PIL image", "with_format"),
        ({"a": Image.new("L", (2, 2)), "b": Image.new("L", (2, 2))}, PIXELS, "images in the columns a, b", "rename"),
        ({"audio": {"array": [0.5], "sampling_rate": 8000}}, SOUND, "has 8000 samples per second", "resample"),
        ({"audio": {"array": [], "sampling_rate": 16000}}, SOUND, "sample 0 of mine_for_tests:make is empty", None),
        ({"audio": {"array": [[0.5]], "sampling_rate": 16000}}, SOUND, r"the shape \[1, 1\]", "mean"),
        ({"audio": 3}, SOUND, "is not a sound: TypeError", None),
        ({"audio": {"array": ["x"], "sampling_rate": 16000}}, SOUND, "is not a sound: ValueError", None),
        ({"audio": {"bytes": b"RIFF", "path": None}}, SOUND, "cannot read the sound", None),
        ({"audio": {"bytes": None, "path": None}}, SOUND, "expected array and sampling_rate", None),
        (
            {"audio": {"array": [0.5], "sampling_rate": 16000}, "text": " "},
            SOUND,
            "transcript of sample 0 .* empty",
            "",
        ),
        ({"audio": {"array": [0.5], "sampling_rate": 16000}, "text": "a?"}, SOUND, "transcript of sample 0 .* '?'", ""),
    ],
)
def test_columns_that_cannot_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, row: dict[str, Any], inputs: str, message: str, hint: str | None
) -> None:
    samples = opened(monkeypatch, model_folder(tmp_path), [row], inputs)
    with pytest.raises(UsageError, match=message) as refusal:
        samples[0]
    assert hint is None or hint in str(refusal.value.hint)


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_pictures_in_a_format_of_arrays_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str) -> None:
    samples = opened(monkeypatch, model_folder(tmp_path), pictures().with_format(form), PIXELS)
    with pytest.raises(UsageError, match="in the column image; expected a PIL image") as refusal:
        samples[1]
    assert 'with_format(None).cast_column("image"' in str(refusal.value.hint)


def test_text_is_left_alone_where_the_model_needs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"text": "a b", "label": "spam", TOKENS: [1, 2]}
    sample = opened(monkeypatch, tmp_path, datasets.Dataset.from_list([row]), TOKENS)[0]
    assert {name: array.tolist() for name, array in sample.items()} == {TOKENS: [1, 2]}


@pytest.mark.parametrize("kind", ["DatasetDict", "IterableDatasetDict"])
def test_splits_have_to_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    one = datasets.Dataset.from_dict({TOKENS: [[1]]})
    one = one.to_iterable_dataset() if "Iterable" in kind else one
    splits = getattr(datasets, kind)({"train": one, "test": one})
    with pytest.raises(UsageError, match="mine_for_tests:make returned the splits train, test") as refusal:
        opened(monkeypatch, tmp_path, splits, TOKENS)
    assert 'dataset["train"]' in str(refusal.value.hint)


def test_streams_are_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    samples = opened(monkeypatch, model_folder(tmp_path), pictures(count=4).to_iterable_dataset(), PIXELS)
    expected = opened(monkeypatch, tmp_path, pictures(count=4), PIXELS)
    assert len(samples) == 4
    for i in range(4):
        np.testing.assert_array_equal(samples[i][PIXELS], expected[i][PIXELS])


def test_a_dataset_sliced_into_uneven_lists_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict({TOKENS: [[1, 2], [3]]})
    with pytest.raises(UsageError, match="mine_for_tests:make returned a mapping whose values are not arrays"):
        opened(monkeypatch, tmp_path, whole[:], TOKENS)


def test_a_transform_that_fails_is_named_with_its_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = datasets.Dataset.from_dict({TOKENS: [[1], [2], [0], [4]]})

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        return {TOKENS: [[12 // token for token in tokens] for tokens in rows[TOKENS]]}

    samples = opened(monkeypatch, tmp_path, plain.with_transform(transform), TOKENS)
    assert samples[1][TOKENS].tolist() == [6]
    with pytest.raises(UsageError, match="mine_for_tests:make failed at sample 2: ZeroDivisionError") as refusal:
        samples[2]
    assert "--debug" in str(refusal.value.hint)
    stream = plain.to_iterable_dataset().map(lambda row: {TOKENS: [12 // token for token in row[TOKENS]]})
    with pytest.raises(UsageError, match="mine_for_tests:make failed at sample 2: ZeroDivisionError"):
        opened(monkeypatch, tmp_path, stream, TOKENS)


def test_transcripts_need_letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"audio": waves(1)[0], "text": "a"}
    with pytest.raises(UsageError, match="the model has no vocabulary of letters"):
        opened(monkeypatch, tmp_path, [row], SOUND)[0]
    assert opened(monkeypatch, tmp_path, [row | {"labels": [1, 2]}], SOUND)[0][LABELS].tolist() == [1, 2]


def test_the_digest_is_of_what_the_model_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = model_folder(tmp_path)

    def of(content: Any, *names: str) -> str:
        return opened(monkeypatch, folder, content, *names).digest()

    assert of(pictures(), PIXELS) == of(pictures("img"), PIXELS)
    assert of(pictures(), PIXELS) != of(pictures().select(range(ROWS - 1, -1, -1)), PIXELS)
    sounds = [{"audio": Decoder(), "text": "ab", "boxes": [[1], [2, 3]]} for _ in range(2)]
    others = [{"audio": Decoder(), "text": "AB", "object": object()} for _ in range(2)]
    assert of(sounds, SOUND) == of(others, SOUND)
    assert of(sounds, SOUND) != of([row | {"text": "ba"} for row in sounds], SOUND)
