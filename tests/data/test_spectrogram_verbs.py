"""Folders of sounds and tables of answers serve every verb: Whisper, AST, T5."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from tiny_architectures import tiny_model
from tiny_tokenizers import word_tokenizer, write_tokenizer
from user_data import write_wav

from acm_export.cli import main
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.timing import warm_up

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("--learners", 3, "--steps", "1,1,1", "--batch", 4)
SOUNDS = 10
_LAYER = {"layers": 1, "attention_heads": 3, "ffn_dim": 24}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    tiny_model("whisper").save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=800).save_pretrained(folder)
    return write_tokenizer(folder, word_tokenizer(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")))


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    for i in range(SOUNDS):
        values = 9000 * np.sin(np.arange(3000 + 1500 * i) * (0.01 + i / 100))
        write_wav(folder / f"{i}.wav", values.astype("<i2"))
    return folder


def transcribe(folder: Path) -> None:
    for i in range(SOUNDS):
        (folder / f"{i}.txt").write_text("a b c" if i % 2 else "b d e a")


def run(*args: object, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == exit_code, result.stderr
    return result


def test_sounds_serve_every_verb_for_the_encoder_of_whisper(tmp_path: Path, whisper: Path, speech: Path) -> None:
    acm, exported, calibrated = tmp_path / "acm", tmp_path / "m.onnx", tmp_path / "c.onnx"
    done = run("acmize", whisper, "--data", speech, "-o", acm, *QUICK, "--json")
    assert json.loads(done.stdout)["curve"]["samples"] == 2
    assert "1 of the 10 sounds" in done.stderr, "the longest has 16,500 samples, the window 16,000"
    run("export", acm, "-o", exported)
    run("calibrate", exported, "--data", speech, "-o", calibrated, "--solver", "uniform", "--batch", 4)
    run("verify", calibrated, "--checkpoint", acm, "--data", speech)
    run("quantize", exported, "--data", speech, "-o", tmp_path / "q.onnx")
    timed = json.loads(run("latency", calibrated, "--data", speech, "--runs", 3, "--json").stdout)
    assert timed["runs"][0]["inputs"] == {"input_features": [1, 8, 20]}


def test_transcripts_serve_every_verb_for_the_whole_whisper(tmp_path: Path, whisper: Path, speech: Path) -> None:
    acm, exported = tmp_path / "acm", tmp_path / "m.onnx"
    whole = ("acmize", whisper, "--part", "whole", "--data", speech, "-o", acm, *QUICK)
    refused = run(*whole, exit_code=2)
    assert "teacher forcing" in refused.stderr
    assert "--part encoder" in refused.stderr
    transcribe(speech)
    run(*whole)
    run("export", acm, "-o", exported)
    record = read_manifest(read_model(exported), exported).processor
    assert record is not None
    assert record.decoder_start == 1
    run("calibrate", exported, "--data", speech, "-o", tmp_path / "c.onnx", "--solver", "uniform", "--batch", 4)
    run("verify", exported, "--checkpoint", acm, "--data", speech)
    timed = json.loads(run("latency", exported, "--data", speech, "--runs", 3, "--json").stdout)
    assert timed["runs"][0]["lengths"]["axis"] == "decoder_tokens"
    run("export", acm, "--part", "encoder", "-o", tmp_path / "e.onnx")
    run("calibrate", tmp_path / "e.onnx", "--data", speech, "-o", tmp_path / "e2.onnx", "--solver", "uniform")
    run("export", acm, "--part", "decoder", "-o", tmp_path / "d.onnx")
    refused = run("calibrate", tmp_path / "d.onnx", "--data", speech, "-o", tmp_path / "d2.onnx", exit_code=2)
    assert "encoder_hidden_states are outputs of the encoder" in refused.stderr


def test_sounds_of_any_length_serve_speech2text(tmp_path: Path, speech: Path) -> None:
    torch.manual_seed(0)
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in _LAYER.items()}
    bands = {"input_feat_per_channel": 8, "num_mel_bins": 8, "conv_channels": 16}
    positions = {"max_source_positions": 200, "max_target_positions": 40}
    config = transformers.Speech2TextConfig(d_model=12, vocab_size=20, **sizes, **bands, **positions)
    transformers.Speech2TextForConditionalGeneration(config).save_pretrained(tmp_path / "dense")
    transformers.Speech2TextFeatureExtractor(num_mel_bins=8, feature_size=8).save_pretrained(tmp_path / "dense")
    write_tokenizer(tmp_path / "dense")
    transcribe(speech)
    run("acmize", tmp_path / "dense", "--data", speech, "-o", tmp_path / "acm", *QUICK)
    run("export", tmp_path / "acm", "-o", tmp_path / "m.onnx")
    run("verify", tmp_path / "m.onnx", "--checkpoint", tmp_path / "acm", "--data", speech)


def test_folders_of_sounds_by_class_train_a_classifier(tmp_path: Path, speech: Path) -> None:
    torch.manual_seed(0)
    model = tiny_model("ast")
    model.config.id2label = {0: "high", 1: "low"}
    model.save_pretrained(tmp_path / "dense")
    transformers.ASTFeatureExtractor(num_mel_bins=8, max_length=12).save_pretrained(tmp_path / "dense")
    acmize = ("acmize", tmp_path / "dense", "--data", speech, "-o", tmp_path / "acm", *QUICK, "--json")
    assert "sounds into one subfolder per class" in run(*acmize, exit_code=2).stderr
    for i in range(SOUNDS):
        place = speech / ("low" if i % 2 else "high")
        place.mkdir(exist_ok=True)
        (speech / f"{i}.wav").rename(place / f"{i}.wav")
    done = json.loads(run(*acmize).stdout)
    assert done["curve"]["quality_name"] == "accuracy"
    run("export", tmp_path / "acm", "-o", tmp_path / "m.onnx")
    run("calibrate", tmp_path / "m.onnx", "--data", speech, "-o", tmp_path / "c.onnx", "--solver", "uniform")


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_table_with_targets_serves_every_verb_for_text(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model, acm, exported = tiny_model(name), tmp_path / "acm", tmp_path / "m.onnx"
    model.config.decoder_start_token_id = 0
    model.save_pretrained(tmp_path / "dense")
    write_tokenizer(tmp_path / "dense")
    rows = ({"text": "a b c d e"[: 2 * (i % 5) + 1], "target": "e d c"[: 2 * (i % 3) + 1]} for i in range(SOUNDS))
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    run("acmize", tmp_path / "dense", "--data", data, "-o", acm, *QUICK)
    run("export", acm, "-o", exported)
    run("calibrate", exported, "--data", data, "-o", tmp_path / "c.onnx", "--solver", "uniform", "--batch", 4)
    run("verify", exported, "--checkpoint", acm, "--data", data)
    run("latency", exported, "--data", data, "--runs", 3)
