"""Models, data and output folders that ``acmize`` refuses before any training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from distillation_runs import vit
from safetensors.torch import load_file, save_file
from tiny_families import dense_model
from user_data import module

from acm_export.base.files import sha256_of
from acm_export.cli import main
from acm_export.distillation.state import partial_folder, remove_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = ("--learners", "3", "--steps", "1,1,1", "--batch", "4")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["acmize", *map(str, args), *QUICK])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return vit(tmp_path)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "code", "message"), [("dense", 2, "is also an input"), ("other", 1, "is not an ACM model")]
)
def test_neither_the_teacher_nor_another_dense_model_is_replaced(
    folder: Path, name: str, code: int, message: str
) -> None:
    dense_model("vit").save_pretrained(folder / "other")
    before = digests(folder / name)
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / name)
    assert result.exit_code == code
    assert message in result.stderr
    assert digests(folder / name) == before


def test_an_earlier_result_is_replaced_through_a_symbolic_link(folder: Path) -> None:
    for options in ((), ("--seed", "1")):
        result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "acm", *options)
        assert result.exit_code == 0, result.stderr
    before = digests(folder / "acm")
    (folder / "link").symlink_to("acm")
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "link")
    assert result.exit_code == 0, result.stderr
    assert (folder / "link").is_symlink()
    assert digests(folder / "acm") != before


def test_the_current_folder_can_be_the_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", ".")
    assert result.exit_code == 0, result.stderr
    assert (folder / "here" / "config.json").is_file()


@pytest.mark.parametrize("restart", [(), ("--restart",)])
def test_other_files_beside_the_state_are_never_removed(folder: Path, restart: tuple[str, ...]) -> None:
    thesis = partial_folder(folder / "acm") / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("x")
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "acm", *restart)
    assert result.exit_code == 1
    assert "thesis.txt" in result.stderr
    (thesis.parent / "state.pt").write_text("x")
    remove_state(folder / "acm")
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.txt"]


IDS = {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}
SOUND = {"input_values": np.sin(np.arange(60)), "labels": [1, 2]}
IMAGE = {"pixel_values": np.full((1, 8, 8), np.nan), "labels": 1}


@pytest.mark.parametrize(
    ("name", "odd", "usual", "message"),
    [
        ("bert", {"input_ids": [1] * 41}, IDS, "has 41 tokens; the model takes 1 to 40"),
        ("bert", {"input_ids": []}, IDS, "has 0 tokens"),
        ("bert", {"input_ids": [1, 20]}, IDS, "contains 20; the model takes 0 to 19"),
        ("bert", {"input_ids": [1, -1]}, IDS, "contains -1"),
        ("bert", IDS | {"token_type_ids": [0, 7, 0]}, IDS, "token_type_ids contains 7"),
        ("bert", IDS | {"attention_mask": [1, 1]}, IDS, "has the shape [2], input_ids [3]"),
        ("bert", IDS | {"attention_mask": [0, 0, 0]}, IDS, "masks the whole sample"),
        ("wav2vec2 ctc, XLS-R", SOUND | {"input_values": np.ones(8)}, SOUND, "has 8 samples; the model takes at least"),
        ("wav2vec2 ctc, XLS-R", SOUND | {"labels": [1, 0]}, SOUND, "is the blank"),
        ("wav2vec2 ctc, XLS-R", SOUND | {"labels": [1, 1, 1, 2, 3]}, SOUND, "needs 7 frames"),
        ("vit", IMAGE, IMAGE, "NaN or infinity"),
    ],
)
def test_samples_that_do_not_fit_are_refused_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    odd: dict[str, Any],
    usual: dict[str, Any],
    message: str,
) -> None:
    dense_model(name).save_pretrained(tmp_path / "dense")
    module(monkeypatch, make=lambda: [usual] * 5 + [odd] + [usual] * 5)
    result = run(tmp_path / "dense", "--data", "mine_for_tests:make", "-o", tmp_path / "acm")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_transcript_may_use_all_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dense_model("wav2vec2 ctc, XLS-R").save_pretrained(tmp_path / "dense")
    module(monkeypatch, make=lambda: [SOUND | {"labels": [1, 2, 3, 4, 5]}] * 11)  # 60 samples are 5 frames
    result = run(tmp_path / "dense", "--data", "mine_for_tests:make", "-o", tmp_path / "acm")
    assert result.exit_code == 0, result.stderr


def test_sounds_of_different_lengths_need_a_mask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dense_model("wav2vec2 ctc").save_pretrained(tmp_path / "dense")
    samples = [SOUND | {"input_values": np.sin(np.arange(60 + i % 2))} for i in range(20)]
    module(monkeypatch, make=lambda: samples)
    args = (tmp_path / "dense", "--data", "mine_for_tests:make", "-o", tmp_path / "acm")
    result = run(*args)
    assert result.exit_code == 2, result.stderr
    assert "of the lengths 60 to 61" in result.stderr
    assert CliRunner().invoke(main, ["acmize", *map(str, args), *QUICK[:-1], "1", "--restart"]).exit_code == 0


def test_a_teacher_with_infinite_weights_is_refused(folder: Path) -> None:
    path = folder / "dense" / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("intermediate.dense.weight"))
    tensors[name][0, 0] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "acm")
    assert result.exit_code == 1
    assert "mlp.fc1.weight of the model contains NaN or infinity" in result.stderr
    assert "--lr" not in result.stderr


def test_an_acm_model_is_refused_as_teacher_for_other_sites(folder: Path) -> None:
    data = folder / "data.npz"
    assert run(folder / "dense", "--data", data, "-o", folder / "acm").exit_code == 0
    result = run(folder / "acm", "--data", data, "-o", folder / "again", "--sites", "qkvo")
    assert result.exit_code == 1
    assert "is already an ACM layer" in result.stderr


def _boom(_output: Any, _batch: Any, _teacher: Any) -> Any:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (_boom, "failed: KeyError"),
        (lambda output, _batch, _teacher: output.logits.square(), "expected a scalar tensor"),
        (lambda _output, _batch, _teacher: torch.tensor(1), "floating-point"),
        (lambda _output, _batch, _teacher: torch.tensor(1.0), "does not depend on the model's output"),
    ],
)
def test_a_custom_loss_is_tried_before_training(
    monkeypatch: pytest.MonkeyPatch, folder: Path, loss: Callable[..., Any], message: str
) -> None:
    module(monkeypatch, loss=loss)
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "acm", "--task", "mine_for_tests:loss")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not partial_folder(folder / "acm").exists()


def test_a_quality_of_nan_is_null_in_json(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def loss(output: Any, _batch: Any, _teacher: Any) -> torch.Tensor:
        value: torch.Tensor = output.logits.square().mean()
        return value if torch.is_grad_enabled() else value * float("nan")

    module(monkeypatch, loss=loss)
    task = ("--task", "mine_for_tests:loss", "--json")
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", folder / "acm", *task)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["dense"] is None

    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads((folder / "acm" / "config.json").read_text(), parse_constant=refuse)
