"""``acmize`` on datasets of Hugging Face."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hub_datasets import PIXELS, ROWS, TOKENS, model_folder, pictures, waves
from tiny_families import dense_model
from user_data import LETTERS, module

from acm_export.cli import main
from acm_export.data.collate import LABELS

if TYPE_CHECKING:
    from pathlib import Path


datasets = pytest.importorskip("datasets")


def acmize(folder: Path, *options: object) -> Result:
    paths = [folder / "dense", "--data", "mine_for_tests:make", "-o", folder / "acm"]
    sizes = ["--learners", "3", "--steps", "2,2,2", "--batch", "8"]
    return CliRunner().invoke(main, list(map(str, ["acmize", *paths, *sizes, "--json", *options])))


def test_a_dataset_of_the_models_inputs_is_acmized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense_model("bert sequences").save_pretrained(tmp_path / "dense")
    rows = {TOKENS: [list(range(1, 3 + i % 4)) for i in range(ROWS)], "label": [i % 2 for i in range(ROWS)]}
    features = datasets.Features(
        {TOKENS: datasets.Sequence(datasets.Value("int64")), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    module(monkeypatch, make=lambda: datasets.Dataset.from_dict(rows, features=features))
    result = acmize(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["quality_name"] == "accuracy"
    assert json.loads(result.stdout)["curve"]["samples"] == 4


def test_a_dataset_of_pictures_is_acmized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense_model("vit").save_pretrained(tmp_path / "dense")
    module(monkeypatch, make=pictures)
    refused = acmize(tmp_path)
    assert refused.exit_code == 2
    assert "preprocessor_config.json" in refused.stderr
    assert "--processor" in refused.stderr
    result = acmize(tmp_path, "--processor", model_folder(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["quality_name"] == "accuracy"


def test_a_dataset_of_speech_is_acmized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense_model("wav2vec2 ctc, XLS-R").save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "vocab.json").write_text(LETTERS)
    content = {"audio": waves() * 4, "sentence": ["ab c", "B", "a"] * 4}
    module(monkeypatch, make=lambda: datasets.Dataset.from_dict(content))
    result = acmize(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["quality_name"] == "1 - word error rate"


@pytest.mark.parametrize(
    ("name", "row", "message", "hint"),
    [
        (
            "vit",
            {PIXELS: [np.zeros((1, 8, 8)).tolist()], LABELS: 0},
            r"\[1, 1, 8, 8\]; the model takes float32 \[1, 8, 8\]",
            "return_tensors",
        ),
        (
            "vit",
            {PIXELS: np.zeros((3, 8, 8)).tolist(), LABELS: 0},
            r"\[3, 8, 8\]; the model takes float32 \[1, 8, 8\]",
            None,
        ),
        ("bert sequences", {TOKENS: 3, LABELS: 0}, r"input_ids is int64 \[\]; the model takes int64 \[tokens\]", None),
        ("bert sequences", {TOKENS: [[1], [2, 3]], LABELS: 0}, "input_ids is not an array", None),
        (
            "bert sequences",
            {TOKENS: [1], "label": "spam"},
            "no labels, but the task classification",
            "numbers named labels",
        ),
        ("bert sequences", {TOKENS: [1], "label": -1}, "label -1", None),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: dict[str, Any], message: str, hint: str | None
) -> None:
    dense_model(name).save_pretrained(tmp_path / "dense")
    module(monkeypatch, make=lambda: datasets.Dataset.from_list([row] * ROWS))
    result = acmize(tmp_path)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert (hint or "error:") in result.stderr
    assert not (tmp_path / "acm").exists()
