"""The right answer as input of a decoder: transcripts of sounds, and targets of texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from tiny_tokenizers import word_tokenizer, write_tokenizer
from tokenizers import processors
from transformers.models.bart.modeling_bart import shift_tokens_right
from user_data import write_wav

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.decoder_tokens import read_decoder_start
from acm_export.data.open_data import open_data
from acm_export.onnx_file.processor_record import ProcessorRecord

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.dataset import Dataset

INT = np.dtype(np.int64)
PAD, CLS, SEP, A = 0, 2, 3, 5
"""Ids of the tokenizer: [CLS] words [SEP], where the word a is 5, b is 6, and so on."""

DECODER = "decoder_input_ids"


def text_inputs(longest: int | None = None) -> list[GraphInput]:
    mask = GraphInput("attention_mask", ("batch", "tokens"), INT, 2)
    return [GraphInput("input_ids", ("batch", "tokens"), INT, 20), mask, decoder_input(longest)]


def decoder_input(longest: int | None = None) -> GraphInput:
    lengths = {"decoder_tokens": (1, longest)}
    return GraphInput(DECODER, ("batch", "decoder_tokens"), INT, 20, lengths)


def sound_inputs(longest: int | None = None) -> list[GraphInput]:
    return [GraphInput("input_features", ("batch", 8, 20), np.dtype(np.float32)), decoder_input(longest)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_tokenizer(tmp_path / "model", padding_side="left")
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=800).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"decoder_start_token_id": SEP}))
    return folder


def speech(folder: Path, *transcripts: str) -> Path:
    folder.mkdir()
    for i, text in enumerate(transcripts):
        write_wav(folder / f"{i}.wav", (9000 * np.sin(np.arange(2000 + i))).astype("<i2"))
        (folder / f"{i}.txt").write_text(text)
    return folder


def opened(data: Any, model: Path, inputs: list[GraphInput] | None = None, **options: Any) -> Dataset:
    return open_data(data, inputs or text_inputs(), model_folder=model, **options)


def tokens(samples: Dataset) -> list[list[int]]:
    return [samples[i][DECODER].tolist() for i in range(len(samples))]


def test_transcripts_are_shifted_behind_the_start_token(tmp_path: Path, model: Path) -> None:
    labels = torch.tensor([[CLS, A, A + 1, SEP], [CLS, A + 2, SEP, PAD]])
    expected = shift_tokens_right(labels, PAD, SEP).tolist()
    samples = opened(speech(tmp_path / "speech", "a b", "c"), model, sound_inputs())
    assert tokens(samples) == [expected[0], expected[1][:-1]]
    assert expected[0] == [SEP, CLS, A, A + 1]


def test_a_start_token_that_the_tokenizer_adds_is_not_added_twice(tmp_path: Path, model: Path) -> None:
    prompt = word_tokenizer()
    prompt.post_processor = processors.TemplateProcessing(
        single="[CLS] [MASK] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[MASK]", 4), ("[SEP]", SEP)]
    )
    write_tokenizer(model, prompt)
    samples = opened(speech(tmp_path / "speech", "a b"), model, sound_inputs(), decoder_start=CLS)
    assert tokens(samples) == [[CLS, 4, A, A + 1]]


def test_answers_are_padded_at_the_end_with_the_pad_token(tmp_path: Path) -> None:
    model = write_tokenizer(
        tmp_path / "model", word_tokenizer(("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")), padding_side="left"
    )
    rows = [{"text": "a b", "target": "a"}, {"text": "c", "target": "a b c"}]
    (batch,) = opened(rows, model, decoder_start=1).batches(2)
    assert batch.feeds[DECODER].tolist() == [[1, 0, 5, 3, 3], [1, 0, 5, 6, 7]]
    assert batch.feeds["input_ids"].tolist() == [[0, 5, 6, 1], [3, 0, 7, 1]]
    (batch,) = open_data(
        [{"input_ids": [5], "target": "a"}, {"input_ids": [5], "target": "a b"}],
        [text_inputs()[0], decoder_input()],
        model_folder=model,
        decoder_start=1,
    ).batches(2)
    assert batch.feeds[DECODER].tolist() == [[1, 0, 5, 3], [1, 0, 5, 6]], "needs no mask: the decoder is causal"


@pytest.mark.parametrize("column", ["target", "summary", "translation"])
def test_targets_are_columns_of_tables_and_of_datasets(tmp_path: Path, model: Path, column: str) -> None:
    (tmp_path / "t.csv").write_text(f"{column},text\na b,c\nd,e\n")
    (tmp_path / "t.jsonl").write_text(f'{{"{column}": "a b", "text": "c"}}\n{{"text": "e", "{column}": "d"}}\n')
    rows = [{column: "a b", "document": "c"}, {column: "d", "document": "e"}]
    for data in (tmp_path / "t.csv", tmp_path / "t.jsonl", rows):
        samples = opened(data, model)
        assert tokens(samples) == [[SEP, CLS, A, A + 1], [SEP, CLS, A + 3]]
        assert [samples[i]["input_ids"].tolist() for i in range(2)] == [[CLS, A + 2, SEP], [CLS, A + 4, SEP]]


def test_what_is_said_is_a_column_of_datasets_of_sounds(model: Path) -> None:
    sound = {"array": np.sin(np.arange(2000.0)), "sampling_rate": 16000}
    rows = [{"audio": sound, "sentence": "a", "translation": "b"}, {"audio": sound, "target": "c", "text": "d"}]
    assert tokens(opened(rows, model, sound_inputs())) == [[SEP, CLS, A], [SEP, CLS, A + 2]]


def test_long_answers_are_truncated_and_counted(tmp_path: Path, model: Path) -> None:
    folder = speech(tmp_path / "speech", "a b c d", "a b", "e d c b a")
    with pytest.warns(AcmWarning, match="the answers of 2 of 3 samples were truncated to 4 tokens"):
        samples = opened(folder, model, sound_inputs(longest=4))
    assert tokens(samples) == [[SEP, CLS, A, A + 1], [SEP, CLS, A, A + 1], [SEP, CLS, A + 4, A + 3]]
    (tmp_path / "t.jsonl").write_text('{"text": "a", "target": "a b c d"}\n')
    with pytest.warns(AcmWarning, match="the answers of 1 of 1 samples"):
        opened(tmp_path / "t.jsonl", model, text_inputs(longest=4))
    samples = opened([{"text": "a", "target": t} for t in ("b", "a b c", "a b c d")], model, text_inputs(longest=4))
    with pytest.warns(AcmWarning, match="answer of sample 1 of .* was truncated to 4 tokens") as caught:
        tokens(samples)
    assert len(caught) == 1


def test_a_decoder_without_the_right_answer_is_refused(tmp_path: Path, model: Path) -> None:
    folder = speech(tmp_path / "speech", "a", "b")
    (folder / "1.txt").unlink()
    (tmp_path / "t.txt").write_text("a\n")
    sound = {"array": np.sin(np.arange(2000.0)), "sampling_rate": 16000}
    for data, inputs, where in (
        (folder, sound_inputs(), r"1\.wav has no transcript"),
        ([{"audio": sound}], sound_inputs(), "sample 0 of .* has audio"),
        ([{"text": "a"}], text_inputs(), "sample 0 of .* has text"),
        (tmp_path / "t.txt", text_inputs(), r"sample 0 of .*t\.txt has text"),
    ):
        with pytest.raises(UsageError, match=rf"{where}.*takes decoder_input_ids: .*\(teacher forcing\)") as refusal:
            opened(data, model, inputs)
        assert "--part encoder" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ({"text": "a", "translation": {"en": "a", "de": "b"}}, "dict in the column translation", "dataset.map"),
        ({"text": "a", "target": ["b"]}, "list in the column target", None),
        ({"text": "a", "target": " "}, "column target of sample 0 .* is empty", "leave it out"),
    ],
)
def test_answers_that_are_not_text_are_refused(
    model: Path, row: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        opened([row], model)
    assert hint is None or hint in str(refusal.value.hint)


def test_given_tokens_need_no_tokenizer(tmp_path: Path) -> None:
    samples = opened([{"input_ids": [1, 2], DECODER: [3, 4], "target": "?"}], tmp_path)
    assert tokens(samples) == [[3, 4]]


@pytest.mark.parametrize(
    ("configs", "start"),
    [
        ({"config.json": {"decoder_start_token_id": 3, "bos_token_id": 1}}, 3),
        ({"config.json": {"bos_token_id": 1}, "generation_config.json": {"decoder_start_token_id": 4}}, 4),
        ({"config.json": {"decoder_start_token_id": None, "bos_token_id": 1}}, 1),
        ({"config.json": {}}, None),
        ({}, None),
    ],
)
def test_the_start_token_is_that_of_the_configs(
    tmp_path: Path, configs: dict[str, dict[str, int]], start: int | None
) -> None:
    write_tokenizer(tmp_path)
    for name, content in configs.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_decoder_start(tmp_path) == start
    rows = [{"text": "a", "target": "b"}]
    if start is not None:
        assert tokens(opened(rows, tmp_path)) == [[start, CLS, A + 1]]
        return
    with pytest.raises(UsageError, match="is unknown; expected decoder_start_token_id") as refusal:
        opened(rows, tmp_path)
    assert "export again" in str(refusal.value.hint)


def test_a_start_token_outside_the_vocabulary_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="starts with is 20; expected"):
        opened([{"text": "a", "target": "b"}], model, decoder_start=20)


def test_the_encoders_output_cannot_be_made_of_text(model: Path) -> None:
    states = GraphInput("encoder_hidden_states", ("batch", "tokens", 4), np.dtype(np.float32))
    with pytest.raises(UsageError, match="takes encoder_hidden_states") as refusal:
        opened([{DECODER: [1]}], model, [decoder_input(), states])[0]
    assert "outputs of the encoder" in str(refusal.value.hint)


def test_a_manifest_without_a_start_token_is_read() -> None:
    content: dict[str, Any] = {"folder": None, "files": {}, "labels": [], "lengths": {"tokens": [1, None]}}
    assert ProcessorRecord.parse(content).decoder_start is None
    assert ProcessorRecord.parse({**content, "decoder_start": 3}).decoder_start == 3
