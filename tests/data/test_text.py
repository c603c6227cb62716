"""Text: lines, tables and columns, tokenised with the model's own tokenizer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_tokenizers import SPECIAL, word_tokenizer, write_tokenizer, write_vocabulary
from tokenizers import Tokenizer, models, pre_tokenizers

from acm_export.base.errors import AcmWarning, MissingDependencyError, UsageError
from acm_export.calibration.data import CalibrationData
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.dataset import Dataset


def inputs(tokens: int | str = "tokens", below: int | None = 20, longest: int | None = None) -> list[GraphInput]:
    bounds = {} if longest is None else {"tokens": (1, longest)}
    rows = (("input_ids", below), ("attention_mask", 2), ("token_type_ids", 2))
    return [GraphInput(name, ("batch", tokens), np.dtype(np.int64), limit, bounds) for name, limit in rows]


def opened(path: Path, content: str | bytes, model: Path, **options: Any) -> Dataset:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_data(path, options.pop("inputs", None) or inputs(), model_folder=model, **options)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model")


def test_each_line_is_a_sample_with_special_tokens(tmp_path: Path, model: Path) -> None:
    samples = opened(tmp_path / "s.txt", "\ufeffa b\r\n\n  \nc e a\n", model)
    assert [samples[i]["input_ids"].tolist() for i in range(len(samples))] == [[2, 5, 6, 3], [2, 7, 9, 5, 3]]
    assert samples[0]["attention_mask"].tolist() == [1, 1, 1, 1]
    assert samples[0]["token_type_ids"].tolist() == [0, 0, 0, 0]
    assert len(opened(tmp_path / "s.txt", "a\nb\n\xff".encode("latin1"), model, limit=2)) == 2, "reads no more"


def test_lines_are_separated_by_newlines_alone(tmp_path: Path, model: Path) -> None:
    assert len(opened(tmp_path / "s.txt", "a\u2028b\x0bc\x0cd\x85e\n", model)) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'label,text,text_pair\n1,"a, b",c\n0,"d\ne",a\n'),
        ("t.tsv", "label\ttext\ttext_pair\n1\ta, b\tc\n0\td e\ta\n"),
        (
            "t.jsonl",
            '{"text": "a, b", "text_pair": "c", "label": 1}\n\n{"text": "d e", "text_pair": "a", "label": 0}\n',
        ),
    ],
)
def test_tables_have_pairs_and_labels(tmp_path: Path, model: Path, name: str, content: str) -> None:
    samples = opened(tmp_path / name, content, model)
    assert samples[0]["input_ids"].tolist() == [2, 5, 1, 6, 3, 7, 3]
    assert samples[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert samples[1]["input_ids"].tolist() == [2, 8, 9, 3, 5, 3]
    assert [int(samples[i]["labels"]) for i in range(2)] == [1, 0]


def test_labels_are_names_of_the_models_classes(tmp_path: Path, model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"id2label": {"0": "good", "1": "bad"}}))
    table = "sentence,label\na,bad\nb,good\nc,1\n"
    samples = opened(tmp_path / "t.csv", table, model)
    assert [int(samples[i]["labels"]) for i in range(3)] == [1, 0, 1]
    other = opened(tmp_path / "t.csv", table, model, classes=("bad", "good"))
    assert [int(other[i]["labels"]) for i in range(3)] == [0, 1, 1]
    with pytest.raises(UsageError, match=r"sample 1 of .* has the label 'ugly'; the model's classes are good, bad"):
        opened(tmp_path / "t.csv", "text,label\na,bad\nb,ugly\n", model)[1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_that_of_the_tokenizer(tmp_path: Path, side: str) -> None:
    special = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")
    model = write_tokenizer(tmp_path / "model", word_tokenizer(special), padding_side=side)
    (batch,) = opened(tmp_path / "s.txt", "a\na b c\n", model).batches(2)
    short = batch.feeds["input_ids"][0].tolist()
    assert short == ([0, 5, 1, 3, 3] if side == "right" else [3, 3, 0, 5, 1])
    assert batch.feeds["attention_mask"][0].tolist() == ([1, 1, 1, 0, 0] if side == "right" else [0, 0, 1, 1, 1])
    fixed = opened(tmp_path / "s.txt", "a\n", model, inputs=inputs(tokens=4))
    assert fixed[0]["input_ids"].tolist() == ([0, 5, 1, 3] if side == "right" else [3, 0, 5, 1])


def test_the_digest_of_a_calibration_does_not_depend_on_the_side_of_the_padding(tmp_path: Path) -> None:
    digests = set()
    for side in ("right", "left"):
        model = write_tokenizer(tmp_path / side, padding_side=side)
        samples = opened(tmp_path / "s.txt", "a\na b c\nd e\n", model)
        digests |= {CalibrationData(samples, batch_size=size).survey().sha256 for size in (1, 2, 3)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("limits", "settings", "longest"),
    [
        ({"longest": 5}, {}, 5),
        ({}, {"model_max_length": 4}, 4),
        ({"longest": 5}, {"model_max_length": 4}, 4),
        ({"longest": 5}, {"model_max_length": 10**30}, 5),
        ({"tokens": 4}, {}, 4),
    ],
)
def test_long_texts_are_truncated_and_counted(
    tmp_path: Path, limits: dict[str, Any], settings: dict[str, Any], longest: int
) -> None:
    model = write_tokenizer(tmp_path / "model", **settings)
    with pytest.warns(AcmWarning, match=rf"2 of the 3 texts in .*s\.txt were truncated to {longest} tokens"):
        samples = opened(tmp_path / "s.txt", "a\na b c d e\ne d c b a\n", model, inputs=inputs(**limits))
    assert samples[2]["input_ids"].tolist() == [*[2, 9, 8, 7, 6][: longest - 1], 3]


def test_a_limit_of_sentence_transformers_counts(tmp_path: Path, model: Path) -> None:
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')
    with pytest.warns(AcmWarning, match="1 of the 1 texts"):
        assert opened(tmp_path / "s.txt", "a b", model)[0]["input_ids"].tolist() == [2, 5, 3]


def test_columns_of_text_are_tokenised(model: Path) -> None:
    rows = [{"text": "a b", "label": 1}, {"text": "c d e", "label": 0}]
    samples = open_data(rows, inputs(longest=4), model_folder=model)
    assert samples[0]["input_ids"].tolist() == [2, 5, 6, 3]
    with pytest.warns(AcmWarning, match="sample 1 of .* was truncated to 4 tokens"):
        assert samples[1]["input_ids"].tolist() == [2, 7, 8, 3]
    assert int(samples[0]["labels"]) == 1
    other = open_data([{"review": "a"}, {"review": "b"}], inputs(), model_folder=model)
    assert other[1]["input_ids"].tolist() == [2, 6, 3]


def test_a_vocabulary_without_tokenizer_json_is_read_by_transformers(tmp_path: Path) -> None:
    samples = opened(tmp_path / "s.txt", "a B zz\n", write_vocabulary(tmp_path / "model"))
    assert samples[0]["input_ids"].tolist() == [2, 5, 6, 1, 3]


def test_tokenizer_json_needs_no_transformers(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(opened(tmp_path / "s.txt", "a\n", model)) == 1


def test_a_missing_package_is_named(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="the package tokenizers is not installed") as raised:
        opened(tmp_path / "s.txt", "a\n", model)
    assert raised.value.hint == "pip install tokenizers"


WRONG: list[tuple[str, str | bytes, str]] = [
    ("s.txt", "", "has no samples"),
    ("s.txt", "\n \n", "has no samples"),
    ("s.txt", b"a\nb\n\xe4\n", r"line 3 of .*s\.txt is not UTF-8: byte 0xe4"),
    ("s.txt", "a\n".encode("utf-16"), "line 1 of .* is not UTF-8: byte 0xff"),
    ("t.csv", "review,stars\na,1\n", "has the columns review, stars; expected text or sentence"),
    ("t.csv", "text,label\na,1,2\n", "has a row of 3 fields near line 2; the header has 2"),
    ("t.csv", "text,label\na\n", "has a row of 1 fields near line 2; the header has 2"),
    ("t.csv", 'text\n"a\n', "is not a table near line 2"),
    ("t.jsonl", "{}\n{", "line 2 of .* is not JSON"),
    ("t.jsonl", "[1]\n", "line 1 of .* is list; expected an object"),
    ("t.jsonl", '{"text": 3}\n', "sample 0 of .* has int in the column text; expected text"),
    ("t.jsonl", '{"x": "a", "y": "b"}\n', "sample 0 of .* has text in the columns x, y; expected it in text or"),
    ("t.jsonl", '{"x": 1}\n', "sample 0 of .* has x; the model takes input_ids"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=range(len(WRONG)))
def test_text_that_cannot_be_used_is_named(
    tmp_path: Path, model: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path / name, content, model)[0]


def test_text_for_a_model_of_images_is_refused(tmp_path: Path, model: Path) -> None:
    image = GraphInput("pixel_values", ("batch", 3, 8, 8), np.dtype(np.float32))
    with pytest.raises(UsageError, match=r"s\.txt is a text file; the model takes pixel_values"):
        opened(tmp_path / "s.txt", "a\n", model, inputs=[image])


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    model = write_tokenizer(tmp_path / "other", word_tokenizer(SPECIAL, first=30))
    with pytest.raises(
        UsageError, match=r"sample 0 of .*tokenizer\.json gives the token id 35; the model takes 0 to 19"
    ):
        opened(tmp_path / "s.txt", "a\n", model)


def test_a_tokenizer_that_is_missing_or_broken_is_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no tokenizer in .* \(tokenizer\.json, vocab\.txt, ") as raised:
        opened(tmp_path / "s.txt", "a\n", tmp_path)
    assert "--processor" in str(raised.value.hint)
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"cannot read .*tokenizer\.json"):
        opened(tmp_path / "s.txt", "a\n", model)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "spiece.model").write_bytes(b"no model")
    with pytest.raises(UsageError, match="transformers cannot make a tokenizer of the files in"):
        opened(tmp_path / "s.txt", "a\n", tmp_path / "old")


def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token=SPECIAL[1]))
    bare.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("-")
    model = write_tokenizer(tmp_path / "model", bare)
    with pytest.raises(UsageError, match=r"sample 1 of .*s\.txt has no tokens"):
        opened(tmp_path / "s.txt", "a\n-\n", model)
