"""``acmize`` on the command line, and the other verbs on its result."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from distillation_runs import vit, weights
from PIL import Image
from safetensors.torch import load_file
from tiny_families import MAKE, dense_model
from user_data import LETTERS, write_wav

from acm_export.base.optional import install_command
from acm_export.checkpoints import load_checkpoint
from acm_export.cli import main
from acm_export.distillation.state import partial_folder
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("_no_collection")
QUICK = ("--learners", "3", "--steps", "2,2,2", "--batch", "8")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["acmize", *map(str, args)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return vit(tmp_path_factory.mktemp("acmize"))


def test_a_dry_run_prints_sites_sizes_and_flops_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = run(folder / "dense", "--dry-run", "--sites", "ffn,q_proj")
    assert result.exit_code == 0, result.stderr
    assert "vit.layers.1.mlp" in result.stdout
    content = json.loads(run(folder / "dense", "--dry-run", "--sites", "ffn,q_proj", "--json").stdout)
    assert [site["hidden_dim"] for site in content["sites"]] == [2, 6, 2, 6]
    assert [site["min_learners"] for site in content["sites"]] == [1, 0, 1, 0]
    assert [site["activation"] for site in content["sites"]] == ["identity", "gelu"] * 2
    dense, acm = content["flops"]["dense"], content["flops"]["acm"]
    tokens = 5  # 4 patches and the class token
    assert dense["dense_sites"] - acm["dense_sites"] == tokens * 2 * (2 * 2 * 12 * 24 + 2 * 12 * 12)
    assert acm["learners"] == tokens * 2 * 4 * 4 * 12 * (6 + 2)
    assert content["parameters"]["acm"] > content["parameters"]["dense"]
    assert sorted(folder.iterdir()) == before
    others = [site["site"] for site in content["not_selected"]]
    assert others == [f"vit.layers.{i}.attention.{name}_proj" for i in range(2) for name in "kvo"]
    assert content["left"] == []


@pytest.mark.slow
def test_the_result_can_be_exported_verified_and_calibrated(folder: Path, tmp_path: Path) -> None:
    made, file = tmp_path / "acm", tmp_path / "acm.onnx"
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", made, "--sites", "ffn,qkvo", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert len(content["plan"]["sites"]) == 10
    assert content["curve"]["samples"] == 8
    assert content["curve"]["thresholds"][0]["budget"] == 1
    line = (
        ["export", made, "-o", file],
        ["verify", file, "--checkpoint", made, "--data", folder / "data.npz"],
        ["calibrate", file, "--data", folder / "data.npz", "--budgets", "0.5", "-o", tmp_path / "c.onnx"],
        ["set-budget", tmp_path / "c.onnx", "0.5"],
    )
    for command in line:
        done = CliRunner().invoke(main, [str(part) for part in command])
        assert done.exit_code == 0, (command, done.stderr)


def test_a_folder_of_images_is_acmized(folder: Path, tmp_path: Path) -> None:
    for label in "01234":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 255, (10, 10), np.uint8)
            Image.fromarray(pixels, "L").save(tmp_path / "images" / label / f"{i}.png")
    settings = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    images = tmp_path / "images"
    result = run(folder / "dense", "--data", images, "--processor", tmp_path, "-o", tmp_path / "acm", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "20" not in result.stderr
    assert "accuracy" in (tmp_path / "acm" / "MODEL_CARD.md").read_text()


MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("ffn,qkvo", {"input_ids": [1, 2, 3, 4]}, "cosine to the teacher"),
    "bert sequences": ("ffn", {"input_ids": [5, 6, 7], "labels": 1}, "accuracy"),
    "bert tokens": ("ffn", {"input_ids": [5, 6, 7]}, "agreement with the teacher"),
    "deit": ("ffn", {"pixel_values": np.ones((1, 8, 8)), "labels": 2}, "accuracy"),
    "wav2vec2 ctc": ("ffn", {"input_values": np.sin(np.arange(300)), "labels": [1, 2]}, "1 - label error rate"),
    "wav2vec2 ctc, XLS-R": (
        "ffn,qkvo",
        {"input_values": np.sin(np.arange(300)), "labels": [1, 2]},
        "1 - label error rate",
    ),
    "whisper": ("ffn", {"input_features": np.ones((8, 20))}, "cosine to the teacher"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_acmized(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites, sample, quality = MODELS[name]
    assert name in MAKE
    dense_model(name).save_pretrained(tmp_path / "dense")
    samples = [
        {
            key: value[: len(value) - i % 2] if key in ("input_ids", "input_values") else value
            for key, value in sample.items()
        }
        for i in range(20)
    ]
    if name == "wav2vec2 ctc":  # without a mask, sounds of a batch are of one length
        samples = [sample] * 20
    monkeypatch.setattr("acm_export.data.open_data.import_function", lambda *_: lambda: samples)
    made = tmp_path / "acm"
    result = run(tmp_path / "dense", "--data", "mine:make", "-o", made, "--sites", sites, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["quality_name"] == quality
    layers = dict(acm_layers(load_checkpoint(made).model))
    assert len(layers) == 2 * (5 if "qkvo" in sites else 1)
    assert all(bool(p.isfinite().all()) for layer in layers.values() for p in layer.parameters())


def test_a_folder_of_speech_is_acmized(tmp_path: Path) -> None:
    dense_model("wav2vec2 ctc, XLS-R").save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "vocab.json").write_text(LETTERS)
    (tmp_path / "speech").mkdir()
    for i in range(12):
        write_wav(tmp_path / "speech" / f"{i}.wav", (9000 * np.sin(np.arange(300 + 20 * i))).astype("<i2"))
        (tmp_path / "speech" / f"{i}.txt").write_text("ab c" if i % 2 else "B")
    result = run(tmp_path / "dense", "--data", tmp_path / "speech", "-o", tmp_path / "acm", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["curve"]["quality_name"] == "1 - word error rate"
    assert content["curve"]["samples"] == 2
    assert (tmp_path / "acm" / "vocab.json").read_text() == LETTERS


def test_speech_without_transcripts_imitates_the_teacher(tmp_path: Path) -> None:
    dense_model("wav2vec2, XLS-R").save_pretrained(tmp_path / "dense")
    (tmp_path / "speech").mkdir()
    for i in range(12):
        write_wav(tmp_path / "speech" / f"{i}.wav", (9000 * np.sin(np.arange(300 + 20 * i))).astype("<i2"))
    result = run(tmp_path / "dense", "--data", tmp_path / "speech", "-o", tmp_path / "acm", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["curve"]["quality_name"] == "cosine to the teacher"


def test_a_custom_loss_is_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_loss.py").write_text(
        "def loss(output, batch, teacher):\n    return (output.logits - teacher.logits).square().mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = folder / "data.npz"
    result = run(folder / "dense", "--data", data, "-o", tmp_path / "acm", "--task", "mine_loss:loss", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    curve = json.loads(result.stdout)["curve"]
    assert curve["quality_name"] == "negative loss"
    assert curve["dense"] == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--sites", "nothing.*"), 2, "'nothing.*' selects no site"),
        (("--flops-factor", "0"), 2, "FLOPs factor is 0"),
        (("--flops-factor", "0.01"), 2, "hidden units each"),
        (("--learners", "2", "--min-learners", "2"), 2, "so the gate would have no choice"),
        (("--learners", "1", "--sites", "q_proj"), 2, "so the gate would have no choice"),
        (("--recipe", "paper"), 2, "for example: --budget 0.5"),
        (("--steps", "nan,2,2"), 2, "whole numbers"),
        (("--steps", "inf,2,2"), 2, "whole numbers"),
        (("--learners", "4", "--min-learners", "5"), 2, "so the gate would have no choice"),
        (("--sites", "ffn,"), 2, "empty part"),
        (("--seed", "99999999999999999999999"), 2, "--seed"),
        (("--budget", "0.5"), 2, "the budget is 0.5, but the recipe any-budget"),
        (("--recipe", "paper", "--budget", "1.5"), 2, "it must be above 0 and at most 1"),
        (("--steps", "1,2"), 2, "three"),
        (("--steps", "1,2,-3"), 2, "whole numbers"),
        (("--steps", "1,2,x"), 2, "is not a number"),
        (("--lr", "1,2,3"), 2, "learning rates"),
        (("--task", "ctc"), 2, "not a task of ViTForImageClassification"),
        (("--task", "nowhere:loss"), 2, "cannot import nowhere:loss"),
        (("--eval-data", "missing.npz"), 2, "missing.npz"),
    ],
)
def test_wrong_options_are_refused_before_any_training(
    folder: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", tmp_path / "acm", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_acm_model_is_refused_as_teacher(folder: Path, tmp_path: Path) -> None:
    assert run(folder / "dense", "--data", folder / "data.npz", "-o", tmp_path / "acm", *QUICK).exit_code == 0
    again = run(tmp_path / "acm", "--data", folder / "data.npz", "-o", tmp_path / "again")
    assert again.exit_code == 1
    assert "is already an ACM layer" in again.stderr


def test_without_accelerate_the_command_that_installs_it_is_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    result = run(folder / "dense", "--data", folder / "data.npz", "-o", tmp_path / "acm")
    assert result.exit_code == 1
    assert install_command("export") in result.stderr


def command(folder: Path, output: Path) -> list[str]:
    paths = [folder / "dense", "--data", folder / "data.npz", "-o", output]
    sizes = ["--learners", "3", "--batch", "8", "--steps", "60,40,60", "--checkpoint-every", "5"]
    return ["acmize", *map(str, paths), *sizes]


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_killed_process_resumes_and_ends_with_the_same_result(folder: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "acm_export"]
    with subprocess.Popen(
        [*start, *command(folder, tmp_path / "acm")], stderr=subprocess.PIPE, env=one_thread()
    ) as killed:
        state = partial_folder(tmp_path / "acm") / "state.pt"
        deadline = time.monotonic() + 120
        while not state.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "acm").exists()
    for output in ("acm", "whole"):
        subprocess.run([*start, *command(folder, tmp_path / output)], check=True, env=one_thread(), capture_output=True)
    a, b = weights(tmp_path / "acm"), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.slow
def test_two_processes_train_one_model(folder: Path, tmp_path: Path) -> None:
    options = shlex.split(
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    )
    program = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", "acm_export"]
    launch = [*program, *command(folder, tmp_path / "acm"), "--json"]
    on_cpus = one_thread() | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, env=on_cpus, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads(done.stdout)  # of one process alone
    assert content["processes"] == 2
    assert content["output"] == str(tmp_path / "acm")
    assert not partial_folder(tmp_path / "acm").exists()
    two = load_file(tmp_path / "acm" / "model.safetensors")
    subprocess.run(
        [sys.executable, "-m", "acm_export", *command(folder, tmp_path / "one")],
        check=True,
        env=one_thread(),
        capture_output=True,
    )
    one = load_file(tmp_path / "one" / "model.safetensors")
    name = "vit.layers.0.mlp.w1"  # phase 1 draws no random numbers: the halves of a batch add up to the batch
    assert float((one[name] - two[name]).abs().max()) < 0.1 * float(one[name].abs().max())
