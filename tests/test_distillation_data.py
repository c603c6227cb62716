"""Where samples come from, how they become batches, and what tasks make of labels."""

from __future__ import annotations

import sys
import types
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_families import dense_model
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.collate import Collate
from acm_export.distillation.samples import digest, open_samples, split
from acm_export.distillation.tasks import CTC, Classification, Distil, UserLoss, task_for
from acm_export.errors import UsageError
from acm_export.surgery import FAMILIES

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


def output(**tensors: torch.Tensor) -> Any:
    return _Output(tensors)


class _Output(dict[str, torch.Tensor]):
    """As those of transformers: fields by name and by key."""

    def __getattr__(self, name: str) -> torch.Tensor:
        return self[name]


def test_classification() -> None:
    task, labels = Classification(3), torch.tensor([0, 2])
    ours, theirs = output(logits=torch.randn(2, 3)), output(logits=torch.randn(2, 3))
    batch = {"labels": labels}
    cross = F.cross_entropy(ours.logits, labels)
    torch.testing.assert_close(task.loss(ours, batch, None, None), cross)
    p, q = theirs.logits.softmax(-1), ours.logits.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(task.loss(ours, batch, theirs, None), (cross + divergence) / 2)
    sure = output(logits=torch.tensor([[9.0, 0, 0], [9.0, 0, 0]]))
    assert task.quality(sure, batch, None, None) == (1.0, 2.0)


def test_ctc_is_what_transformers_computes() -> None:
    model = dense_model("wav2vec2 ctc, XLS-R")
    model.config.ctc_loss_reduction, model.config.ctc_zero_infinity = "mean", True
    inputs = {
        "input_values": torch.randn(2, 400),
        "attention_mask": (torch.arange(400) < torch.tensor([[400], [250]])).long(),
    }
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    with torch.no_grad():
        expected = model(**inputs, labels=labels)
        lengths = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(1))
        valid = torch.arange(expected.logits.shape[1]) < lengths.unsqueeze(1)
    found = CTC(model.config.pad_token_id, 6).loss(expected, {"labels": labels}, None, valid)
    torch.testing.assert_close(found, expected.loss)


def test_word_errors_of_the_greedy_transcript() -> None:
    frames = torch.tensor([[2, 2, 0, 3, 1, 4, 4, 9], [2, 0, 2, 0, 0, 0, 9, 9]])  # AB|C and AA, with blanks
    logits = F.one_hot(frames.clamp(max=5), 6).float()
    valid = torch.arange(8) < torch.tensor([[7], [6]])
    batch = {"labels": torch.tensor([[2, 3, 1, 4], [2, 3, -100, -100]])}
    assert CTC(0, 6, space=1).quality(output(logits=logits), batch, None, valid) == (2.0, 3.0)
    assert CTC(0, 6).quality(output(logits=logits), batch, None, valid) == (5.0, 6.0)


def test_features_are_compared_by_cosine_without_padding() -> None:
    task = Distil(("last_hidden_state",))
    a, b = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    valid = torch.tensor([[True, True, False, False], [True] * 4])
    moved = a.clone()
    moved[0, 2:] = 100.0
    ours, same = output(last_hidden_state=moved), output(last_hidden_state=a)
    assert float(task.loss(ours, {}, same, valid)) == pytest.approx(0, abs=1e-5)
    assert task.quality(ours, {}, same, valid)[0] == pytest.approx(2)
    theirs = output(last_hidden_state=b)
    pooled = [
        F.cosine_similarity(a[0, :2].mean(0), b[0, :2].mean(0), 0),
        F.cosine_similarity(a[1].mean(0), b[1].mean(0), 0),
    ]
    assert task.quality(same, {}, theirs, valid)[0] == pytest.approx(float(sum(pooled)), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (Classification(3), torch.tensor([0, 3]), "label 3 is out of range; the model knows 3"),
        (Classification(3), torch.tensor([0, -100]), "label -100"),
        (Classification(3), torch.tensor([0.5]), "a class per sample"),
        (CTC(0, 6), torch.tensor([[1, 6]]), "label 6"),
        (CTC(0, 6), torch.tensor([[1, -1]]), "label -1"),
        (CTC(0, 6), torch.tensor([1, 2]), "a sequence per sample"),
    ],
)
def test_labels_out_of_range_are_named(task: Any, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task.check({"labels": labels})


def test_architectures_have_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, loss=lambda *_: torch.tensor(2.0), wrong=lambda *_: 2.0)
    names = {"vit": "classification", "bert": "distil", "bert sequences": "classification", "wav2vec2 ctc": "ctc"}
    for name, task in names.items():
        model = dense_model(name)
        family = FAMILIES[model.config.model_type]
        assert task_for(model, family, None, {}).name == task
        assert task_for(model, family, "distil", {}).name == "distil"
    with pytest.raises(UsageError, match="'ctc' is no task of ViTForImageClassification"):
        task_for(dense_model("vit"), FAMILIES["vit"], "ctc", {})
    mine = task_for(dense_model("vit"), FAMILIES["vit"], "mine_for_tests:loss", {})
    assert mine.quality(None, {"x": torch.zeros(3)}, None, None) == (-6.0, 3.0)
    with pytest.raises(UsageError, match="returned float"):
        UserLoss("mine_for_tests:wrong").loss(None, {}, None, None)
