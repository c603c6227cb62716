"""Where samples come from, and how they become batches."""

from __future__ import annotations

import sys
import types
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from acm_export.base.errors import UsageError
from acm_export.data.collate import Collate
from acm_export.data.samples import digest, open_samples, split

if TYPE_CHECKING:
    from pathlib import Path

LETTERS = '{"<pad>": 0, "|": 1, "A": 2, "B": 3, "C": 4}'


def module(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    made = types.ModuleType("mine_for_tests")
    vars(made).update(functions)
    monkeypatch.setitem(sys.modules, "mine_for_tests", made)


def accept(_batch: Any) -> None:
    """A check that finds nothing."""


def collate(**options: Any) -> Collate:
    settings = {"takes_mask": True, "check": accept} | options
    return Collate(("input_ids", "attention_mask"), {"input_ids": "int64", "attention_mask": "int64"}, **settings)


def write_wav(path: Path, values: np.ndarray[Any, Any], rate: int = 16000, width: int = 2, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(values.tobytes())


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
    samples = open_samples(str(folder), folder / "model")
    assert len(samples) == 3
    assert [samples[i]["labels"].tolist() for i in range(3)] == [[2, 3, 1, 4], [4], [3, 2]]
    values = samples[0]["input_values"]
    assert values.shape == (400,)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-5
    assert values.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("width", "kind", "full"), [(1, "u1", 128), (2, "<i2", 32768), (4, "<i4", 2**31)])
def test_widths_and_channels_of_sounds(tmp_path: Path, width: int, kind: str, full: int) -> None:
    folder = speech(tmp_path)
    (folder / "model" / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 8000}')
    for path in folder.rglob("*.wav"):
        path.unlink()
    left = np.array([0.5, -0.25, 0.0]) * full + (128 if width == 1 else 0)
    write_wav(folder / "a" / "one.wav", np.stack([left, left], 1).astype(kind), 8000, width, 2)
    assert open_samples(str(folder), folder / "model")[0]["input_values"].tolist() == [0.5, -0.25, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "b" / "three.txt").unlink(), "three.wav has no transcript"),
        (lambda f: (f / "b" / "three.txt").write_text("bad"), "'d'"),
        (lambda f: (f / "model" / "vocab.json").unlink(), "letters"),
        (lambda f: (f / "model" / "vocab.json").write_text("[1]"), "no vocabulary"),
        (lambda f: (f / "b" / "three.wav").write_bytes(b"RIFF"), "cannot be read|can be read"),
        (lambda f: write_wav(f / "b" / "three.wav", np.zeros(9, "<i2"), rate=8000), "8000 samples per second"),
        (lambda f: write_wav(f / "b" / "three.wav", np.zeros(0, "<i2")), "is empty"),
    ],
)
def test_speech_that_cannot_be_used_is_named(tmp_path: Path, change: Any, message: str) -> None:
    folder = speech(tmp_path)
    change(folder)
    with pytest.raises(UsageError, match=message):
        list(map(open_samples(str(folder), folder / "model").__getitem__, range(3)))


def test_sounds_need_no_transcripts_where_labels_are_of_no_use(tmp_path: Path) -> None:
    folder = speech(tmp_path)
    (folder / "b" / "three.txt").unlink()
    (folder / "model" / "vocab.json").unlink()
    samples = open_samples(str(folder), folder / "model", transcribed=False)
    assert [sorted(samples[i]) for i in range(len(samples))] == [["input_values"]] * 3


def test_arrays_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", pixel_values=np.arange(12.0).reshape(3, 4), labels=np.array([4, 5, 6]))
    samples: Any = open_samples(str(tmp_path / "d.npz"), tmp_path)
    assert len(samples) == 3
    assert samples[1]["pixel_values"].tolist() == [4, 5, 6, 7]
    assert samples.labels.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3), "labels": np.zeros(4)}, "different lengths"),
        ({"a": np.zeros((0, 3))}, "no samples"),
        ({}, "no samples"),
        ({"a": np.array([{}], object)}, "not an .npz file of plain arrays"),
    ],
)
def test_an_npz_that_cannot_be_used_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        open_samples(str(tmp_path / "d.npz"), tmp_path)


class Dataset:
    """As those of Hugging Face: a length, and mappings by number."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


ROWS = [{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3], "labels": 1}]


@pytest.mark.parametrize("content", [Dataset(ROWS), ROWS, iter(ROWS)], ids=["dataset", "list", "iterator"])
def test_functions_return_samples_in_several_forms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any
) -> None:
    module(monkeypatch, make=lambda: content)
    samples = open_samples("mine_for_tests:make", tmp_path)
    assert len(samples) == 2
    assert samples[1] == ROWS[1]


def test_a_function_may_return_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module(monkeypatch, make=lambda: {"input_ids": [[1, 2], [3, 4]]})
    assert open_samples("mine_for_tests:make", tmp_path)[1]["input_ids"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("content", "message"), [([], "no samples"), (3, "returned int"), ([1, 2], "gives int"), (None, "NoneType")]
)
def test_functions_that_return_none_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any, message: str
) -> None:
    module(monkeypatch, make=lambda: content)
    with pytest.raises(UsageError, match=message):
        open_samples("mine_for_tests:make", tmp_path)[0]


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
def test_data_that_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    def fails() -> None:
        raise KeyError("x")

    module(monkeypatch, fails=fails)
    with pytest.raises(UsageError, match=message):
        open_samples(text, tmp_path)


def test_every_tenth_sample_is_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(25), labels=np.arange(25) % 3)
    kept, held_out = split(open_samples(str(tmp_path / "d.npz"), tmp_path))
    assert [int(held_out[i]["x"]) for i in range(len(held_out))] == [9, 19]
    assert sorted(int(kept[i]["x"]) for i in range(len(kept))) == [i for i in range(25) if i not in (9, 19)]
    np.savez(tmp_path / "few.npz", x=np.arange(9))
    with pytest.raises(UsageError, match="9 samples"):
        split(open_samples(str(tmp_path / "few.npz"), tmp_path))


def test_the_digest_sees_values_and_length(tmp_path: Path) -> None:
    digests = set()
    for values in (np.arange(5), np.arange(6), np.arange(5) * 2, np.arange(5.0)):
        np.savez(tmp_path / "d.npz", x=values)
        digests.add(digest(open_samples(str(tmp_path / "d.npz"), tmp_path), ["x"]))
    assert len(digests) == 4
    np.savez(tmp_path / "e.npz", x=np.arange(5))
    assert digest(open_samples(str(tmp_path / "e.npz"), tmp_path), ["x"]) in digests


def test_sequences_are_padded_and_masked() -> None:
    batch = collate()([{"input_ids": [1, 2, 3], "labels": [1]}, {"input_ids": [4], "labels": [2, 3]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, -100], [2, 3]]


def test_given_masks_are_kept_and_models_without_one_get_none() -> None:
    given = [{"input_ids": [1, 2], "attention_mask": [1, 0]}, {"input_ids": [3, 4], "attention_mask": [1, 1]}]
    assert collate()(given)["attention_mask"].tolist() == [[1, 0], [1, 1]]
    plain = Collate(("x",), {"x": "float32"}, takes_mask=False, check=accept)
    batch = plain([{"x": [1], "other": "text"}, {"x": [2]}])
    assert set(batch) == {"x"}
    assert batch["x"].dtype == torch.float32


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"ids": [1]}], "the model takes input_ids"),
        ([{"input_ids": ["a"]}], "expected numbers"),
        ([{"input_ids": [[1]]}, {"input_ids": [[1, 2]]}], "only sequences"),
        ([{"input_ids": [1], "labels": "dog"}], "labels are"),
    ],
)
def test_samples_that_do_not_fit_are_named(samples: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collate()(samples)
