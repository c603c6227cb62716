"""Samples from every source, and their batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from user_data import LETTERS, module, write_wav

from acm_export.base.errors import UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from acm_export.data.dataset import Dataset

IDS = GraphInput("input_ids", ("batch", "tokens"), np.dtype(np.int64))
MASK = GraphInput("attention_mask", ("batch", "tokens"), np.dtype(np.int64))
SOUND = GraphInput("input_values", ("batch", "samples"), np.dtype(np.float32))
ROW = GraphInput("x", ("batch", "values"), np.dtype(np.float32))
NUMBER = GraphInput("x", ("batch",), np.dtype(np.int64))


def opened(data: Any, folder: Path, *inputs: GraphInput, **options: Any) -> Dataset:
    return open_data(data, inputs, model_folder=folder, **options)


def batch_of(samples: Any, *inputs: GraphInput) -> dict[str, Any]:
    """All samples as one batch."""
    dataset = open_data(samples, inputs, model_folder=Path())
    (batch,) = dataset.batches(len(dataset))
    return batch.named()


def speech(folder: Path) -> Path:
    """Three sounds in two folders, one way each of writing transcripts, and a model's folder."""
    (folder / "model").mkdir()
    (folder / "model" / "vocab.json").write_text(LETTERS)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    for name, length in (("a/one", 400), ("a/two", 300), ("b/three", 200)):
        write_wav(folder / f"{name}.wav", (1000 * np.sin(np.arange(length))).astype("<i2"))
    (folder / "a" / "a.trans.txt").write_text("one AB C\ntwo  c\n")
    (folder / "b" / "three.txt").write_text("ba\n")
    return folder


def test_sounds_have_their_transcripts(tmp_path: Path) -> None:
    folder = speech(tmp_path)
    samples = opened(folder, folder / "model", SOUND, transcripts=True)
    assert len(samples) == 3
    assert [samples[i]["labels"].tolist() for i in range(3)] == [[2, 3, 1, 4], [4], [3, 2]]
    values = samples[0]["input_values"]
    assert values.shape == (400,)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-5
    assert values.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("width", "kind", "full"), [(1, "u1", 128), (2, "<i2", 32768), (4, "<i4", 2**31)])
def test_stereo_sounds_of_every_sample_width_are_read(tmp_path: Path, width: int, kind: str, full: int) -> None:
    folder = speech(tmp_path)
    (folder / "model" / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 8000}')
    for path in folder.rglob("*.wav"):
        path.unlink()
    left = np.array([0.5, -0.25, 0.0]) * full + (128 if width == 1 else 0)
    write_wav(folder / "a" / "one.wav", np.stack([left, left], 1).astype(kind), 8000, width, 2)
    samples = opened(folder, folder / "model", SOUND, transcripts=True)
    assert samples[0]["input_values"].tolist() == [0.5, -0.25, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "b" / "three.txt").unlink(), "three.wav has no transcript"),
        (lambda f: (f / "b" / "three.txt").write_text("bad"), "'d'"),
        (lambda f: (f / "model" / "vocab.json").unlink(), "letters"),
        (lambda f: (f / "model" / "vocab.json").write_text("[1]"), "is not a vocabulary"),
        (lambda f: (f / "b" / "three.wav").write_bytes(b"RIFF"), "three.wav as a .wav file"),
        (lambda f: write_wav(f / "b" / "three.wav", np.zeros(9, "<i2"), rate=8000), "8000 samples per second"),
        (lambda f: write_wav(f / "b" / "three.wav", np.zeros(0, "<i2")), "is empty"),
    ],
)
def test_speech_that_cannot_be_used_is_named(tmp_path: Path, change: Any, message: str) -> None:
    folder = speech(tmp_path)
    change(folder)
    with pytest.raises(UsageError, match=message):
        list(map(opened(folder, folder / "model", SOUND, transcripts=True).__getitem__, range(3)))


def test_sounds_need_no_transcripts_if_the_task_needs_no_labels(tmp_path: Path) -> None:
    folder = speech(tmp_path)
    (folder / "b" / "three.txt").unlink()
    (folder / "model" / "vocab.json").unlink()
    samples = opened(folder, folder / "model", SOUND)
    assert [sorted(samples[i]) for i in range(len(samples))] == [["input_values"]] * 3


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_are_samples(tmp_path: Path, save: Any) -> None:
    values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    save(tmp_path / "d.npz", x=values, labels=np.array([4, 5, 6]), other=np.array([{}], object))
    samples = opened(tmp_path / "d.npz", tmp_path, ROW)
    assert len(samples) == 3
    assert samples[1]["x"].tolist() == [4, 5, 6, 7]
    assert samples[1]["x"].dtype == np.float32
    assert samples.labels is not None
    assert samples.labels.tolist() == [4, 5, 6]
    assert [batch.samples for batch in samples.batches(2)] == [2, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3), "labels": np.zeros(4)}, "different lengths"),
        ({"x": np.zeros((0, 3))}, "no samples"),
        ({}, "no samples"),
        ({"x": np.array([{}], object)}, "not an .npz file of plain arrays"),
        ({"x": np.array(3.0)}, "not an .npz file of plain arrays"),
    ],
)
def test_an_npz_that_cannot_be_used_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        opened(tmp_path / "d.npz", tmp_path, ROW)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 4)))
    content = (tmp_path / "d.npz").read_bytes()
    for name, part, found in (
        ("half.npz", content[: len(content) // 2], "is a damaged zip archive; --data takes an .npz file"),
        ("text.npz", b"no", "is a text file; --data takes an .npz file"),
        ("array.npy", content[30:], r"is not an \.npz file of plain arrays"),
    ):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UsageError, match=found):
            opened(tmp_path / name, tmp_path, ROW)


class Rows:
    """A dataset like those of Hugging Face: it has a length and mappings by index."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


ROWS = [{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3], "labels": 1}]


@pytest.mark.parametrize("content", [Rows(ROWS), ROWS, iter(ROWS)], ids=["dataset", "list", "iterator"])
def test_functions_return_samples_in_several_forms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any
) -> None:
    module(monkeypatch, make=lambda: content)
    samples = opened("mine_for_tests:make", tmp_path, IDS)
    assert len(samples) == 2
    assert {name: array.tolist() for name, array in samples[1].items()} == ROWS[1]


def test_a_function_may_return_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module(monkeypatch, make=lambda: {"input_ids": [[1, 2], [3, 4]]})
    assert opened("mine_for_tests:make", tmp_path, IDS)[1]["input_ids"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [([], "no samples"), (3, "returned int"), ([1, 2], "sample 0 of mine_for_tests:make is int"), (None, "NoneType")],
)
def test_functions_that_return_no_samples_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any, message: str
) -> None:
    module(monkeypatch, make=lambda: content)
    with pytest.raises(UsageError, match=message):
        opened("mine_for_tests:make", tmp_path, IDS)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine_for_tests:fails", "failed: KeyError"),
        ("mine_for_tests:missing", "cannot import"),
        ("no_such_module:make", "cannot import"),
        ("nothing.npz", "no file or folder"),
        ("a b:c", "not module:function"),
    ],
)
def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str) -> None:
    def fails() -> None:
        raise KeyError("x")

    module(monkeypatch, fails=fails)
    with pytest.raises(UsageError, match=message):
        opened(text, tmp_path, IDS)


def test_a_function_is_read_no_further_than_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def endless() -> Any:
        while True:
            yield {"input_ids": [1]}

    module(monkeypatch, endless=endless)
    assert len(opened("mine_for_tests:endless", tmp_path, IDS, limit=7)) == 7


def test_one_in_five_samples_is_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(27), labels=np.arange(27) % 3)
    kept, other = opened(tmp_path / "d.npz", tmp_path, NUMBER).split()
    held = [int(other[i]["x"]) for i in range(len(other))]
    assert [value // 5 for value in held] == [0, 1, 2, 3, 4]
    assert [int(kept[i]["x"]) for i in range(len(kept))] == [i for i in range(27) if i not in held]
    np.savez(tmp_path / "few.npz", x=np.arange(4))
    with pytest.raises(UsageError, match="4 samples; at least 5"):
        opened(tmp_path / "few.npz", tmp_path, NUMBER).split()


def test_the_digest_depends_on_values_and_length(tmp_path: Path) -> None:
    digests = set()
    for values in (np.arange(5), np.arange(6), np.arange(5) * 2):
        np.savez(tmp_path / "d.npz", x=values)
        digests.add(opened(tmp_path / "d.npz", tmp_path, NUMBER).digest())
    assert len(digests) == 3
    np.savez(tmp_path / "e.npz", x=np.arange(5))
    assert opened(tmp_path / "e.npz", tmp_path, NUMBER).digest() in digests


def test_sequences_are_padded_and_masked() -> None:
    batch = batch_of([{"input_ids": [1, 2, 3], "labels": [1]}, {"input_ids": [4], "labels": [2, 3]}], IDS, MASK)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, -100], [2, 3]]


def test_samples_are_padded_to_a_fixed_length() -> None:
    fixed = [GraphInput(value.name, ("batch", 4), value.dtype) for value in (IDS, MASK)]
    batch = batch_of([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}], *fixed)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(UsageError, match=r"input_ids is int64 \[5\]; the model takes int64 \[4\]"):
        batch_of([{"input_ids": [1] * 5}], *fixed)


def test_given_masks_are_kept_and_models_without_one_get_none() -> None:
    given = [{"input_ids": [1, 2], "attention_mask": [1, 0]}, {"input_ids": [3, 4], "attention_mask": [1, 1]}]
    assert batch_of(given, IDS, MASK)["attention_mask"].tolist() == [[1, 0], [1, 1]]
    batch = batch_of([{"x": [1.0], "other": "text"}, {"x": [2.0]}], ROW)
    assert set(batch) == {"x"}
    assert batch["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"ids": [1]}], "the model takes input_ids"),
        ([{"input_ids": ["a"]}], "input_ids is <U1"),
        ([{"input_ids": [1], "labels": "dog"}], "labels are <U3; expected numbers"),
    ],
)
def test_samples_that_do_not_fit_are_named(samples: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        batch_of(samples, IDS, MASK)


def test_images_of_two_sizes_are_named() -> None:
    images = GraphInput("pixel_values", ("batch", 1, "height", 4), np.dtype(np.float32))
    with pytest.raises(UsageError, match=r"shapes \[1, 4, 4\] and \[1, 5, 4\]; only the length"):
        batch_of([{"pixel_values": np.zeros((1, height, 4))} for height in (4, 5)], images)


def test_a_mask_is_used_where_only_some_samples_have_one() -> None:
    batch = batch_of([{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 0]}, {"input_ids": [4, 5]}], IDS, MASK)
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0]]
