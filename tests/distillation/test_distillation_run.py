"""The three phases from a dense folder to an ACM folder: the result, seeds, kills, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_families import dense_model

from acm_export.base.errors import DistillationError, OutputError, UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.distillation import train
from acm_export.distillation.acmize import Acmized, acmize
from acm_export.distillation.settings import AcmizeSettings
from acm_export.distillation.state import partial_folder
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = AcmizeSettings(num_learners=3, steps=(5, 4, 6), batch=8, checkpoint_every=2)


class Killed(BaseException):
    """In the place of a signal that cannot be caught."""


class Silent:
    """Counts steps, and may die at one of them."""

    def __init__(self, dies_at: int = -1) -> None:
        self.steps, self.stages, self._dies_at = 0, [], dies_at

    def stage(self, title: str, batches: int | None) -> None:  # noqa: ARG002
        self.stages.append(title)

    def batch(self, note: str = "") -> None:
        self.steps += "loss" in note
        if self.steps == self._dies_at:
            raise Killed


def vit(folder: Path) -> Path:
    dense_model("vit").save_pretrained(folder / "dense")
    generator = np.random.default_rng(0)
    images = generator.standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", pixel_values=images, labels=generator.integers(0, 5, 40))
    return folder


def run(
    folder: Path, settings: AcmizeSettings = SETTINGS, name: str = "out", dies_at: int = -1, **options: Any
) -> Acmized:
    teacher = load_checkpoint(folder / "dense")
    return acmize(teacher, folder / "data.npz", None, settings, folder / name, Silent(dies_at), **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder).model.state_dict())


def same(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # accelerate asks for one after each phase: half of the time here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vit(tmp_path)


def test_a_dense_folder_becomes_an_acm_folder_that_says_how(folder: Path) -> None:
    result = run(folder, replace(SETTINGS, sites="ffn,qkvo"))
    checkpoint = load_checkpoint(folder / "out")
    layers = dict(acm_layers(checkpoint.model))
    assert len(layers) == 2 * 5
    assert {layer.spec.num_learners for layer in layers.values()} == {3}
    source = checkpoint.source
    assert source["teacher"]["sha256"] == load_checkpoint(folder / "dense").sha256
    assert source["settings"]["task"] == "classification"
    assert source["data"]["samples"] == 32
    assert {entry["phase"] for entry in source["history"]} == {1, 2, 3}
    assert [p["count"] for p in source["curve"]["same_count"]] == [3, 2, 1, 0]
    card = (folder / "out" / "MODEL_CARD.md").read_text()
    for point in (*result.curve.thresholds, *result.curve.same_count):
        assert f"| {point.budget:.3f} | {point.quality:.4f} |" in card
    assert source["data"]["sha256"] in card
    assert not partial_folder(folder / "out").exists()
    assert result.peak_memory > 0
    assert result.tokens_per_second is not None


def test_training_changes_gates_learners_and_the_rest_and_makes_phase_1_better(folder: Path) -> None:
    before = run(folder, replace(SETTINGS, steps=(0, 0, 0), init="random"), "before")
    after = run(folder, replace(SETTINGS, steps=(80, 10, 10), init="random"), "after")
    a, b = weights(folder / "before"), weights(folder / "after")
    for name in a:
        assert torch.equal(a[name], b[name]) == name.endswith("thresholds"), name
    losses = [entry["loss"] for entry in after.history if entry["phase"] == 1]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert before.history == ()


def test_without_steps_all_learners_are_the_teacher(folder: Path) -> None:
    run(folder, replace(SETTINGS, steps=(0, 0, 0), num_learners=4))
    teacher, student = load_checkpoint(folder / "dense").model, load_checkpoint(folder / "out").model
    for _, layer in acm_layers(student):
        layer.thresholds.fill_(float("-inf"))
    images = {"pixel_values": torch.randn(6, 1, 8, 8)}
    with torch.no_grad():
        torch.testing.assert_close(student(**images).logits, teacher(**images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", [{}, {"recipe": "paper", "budget": 0.5}])
def test_the_same_command_gives_the_same_weights_and_another_seed_others(folder: Path, recipe: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **recipe)
    run(folder, settings, "a")
    run(folder, settings, "b")
    run(folder, replace(settings, seed=1), "c")
    assert same(folder / "a", folder / "b")
    assert not same(folder / "a", folder / "c")


@pytest.mark.parametrize("dies_at", [1, 5, 7, 10, 15])
def test_a_killed_run_ends_with_the_same_weights(folder: Path, dies_at: int) -> None:
    whole = run(folder, name="whole")
    with pytest.raises(Killed):
        run(folder, dies_at=dies_at)
    assert not (folder / "out").exists()
    result = run(folder)
    assert result.resumed is not None
    assert same(folder / "whole", folder / "out")
    assert result.history == whole.history


def test_a_kill_while_the_state_is_written_keeps_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, name="whole")
    save, calls = torch.save, []

    def dying(content: Any, handle: Any) -> None:
        calls.append(content)
        if len(calls) == 4:
            handle.write(b"half of it")
            raise Killed
        save(content, handle)

    monkeypatch.setattr(torch, "save", dying)
    with pytest.raises(Killed):
        run(folder)
    monkeypatch.setattr(torch, "save", save)
    assert run(folder).resumed is not None
    assert same(folder / "whole", folder / "out")


def test_a_kill_while_the_curve_is_measured_costs_no_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("acm_export.distillation.evaluate.Evaluation.curve", dying)
        with pytest.raises(Killed):
            run(folder)
    result = run(folder)
    assert result.resumed == (4, 0)
    assert result.tokens_per_second is None


def test_a_run_with_other_settings_does_not_go_on(folder: Path) -> None:
    with pytest.raises(Killed):
        run(folder, dies_at=6)
    with pytest.raises(DistillationError, match="other settings") as caught:
        run(folder, replace(SETTINGS, seed=5))
    assert "--restart" in str(caught.value.hint)
    assert run(folder, replace(SETTINGS, seed=5), restart=True).resumed is None


def test_a_broken_state_is_named(folder: Path) -> None:
    with pytest.raises(Killed):
        run(folder, dies_at=6)
    path = partial_folder(folder / "out") / "state.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DistillationError, match=r"state\.pt cannot be read"):
        run(folder)


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_a_loss_that_is_not_finite_names_phase_step_and_layer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    step = {1: 4, 2: 2, 3: 4}[phase]
    tell = train.Trainer._tell

    def poison(self: Any, loss: Any, number: int, last: int, state: Any) -> None:
        tell(self, loss, number, last, state)
        if (number, state.step) == (phase, step - 1):
            with torch.no_grad():
                layer = dict(acm_layers(self.student))["vit.layers.1.mlp"]
                layer.w2.fill_(float("nan"))
                layer.gate.linears[0].weight.fill_(float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_tell", poison)
        with pytest.raises(DistillationError) as caught:
            run(folder)
    assert f"phase {phase}" in str(caught.value)
    assert f"step {step}" in str(caught.value)
    assert "vit.layers.1.mlp" in str(caught.value)
    assert "out.partial" in str(caught.value.hint)
    lower = replace(SETTINGS, learning_rates=(1e-4, 1e-4, 1e-5))
    assert run(folder, lower).resumed is not None  # the state that was kept is sound
    assert all(bool(tensor.isfinite().all()) for tensor in weights(folder / "out").values())


def test_a_state_that_is_not_finite_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = train.Trainer._tell

    def poison(self: Any, loss: Any, number: int, last: int, state: Any) -> None:
        tell(self, loss, number, last, state)
        if (number, state.step) == (3, 4):  # saved after this step
            with torch.no_grad():
                self.student.classifier.weight[0, 0] = float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_tell", poison)
        with pytest.raises(DistillationError, match=r"step 4, first in classifier\.weight"):
            run(folder)
    assert run(folder).resumed == (3, 2)


def test_an_earlier_result_is_replaced_and_other_files_are_not(folder: Path) -> None:
    quick = replace(SETTINGS, steps=(1, 0, 0))
    run(folder, quick)
    run(folder, replace(quick, seed=1))
    (folder / "out" / "mine.txt").write_text("mine")
    progress = Silent()
    with pytest.raises(OutputError, match=r"mine\.txt"):
        acmize(load_checkpoint(folder / "dense"), folder / "data.npz", None, quick, folder / "out", progress)
    assert progress.stages == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(40, 5), "label 5 is out of range"),
        (np.full(40, -1), "label -1"),
        (np.zeros((40, 2), int), "a class per"),
    ],
)
def test_labels_are_checked_before_any_training(folder: Path, labels: Any, message: str) -> None:
    np.savez(folder / "data.npz", pixel_values=np.zeros((40, 1, 8, 8), np.float32), labels=labels)
    with pytest.raises(UsageError, match=message):
        run(folder)
    assert not partial_folder(folder / "out").exists()


def test_one_bad_label_among_many_is_found(folder: Path) -> None:
    labels = np.zeros(3000, int)
    labels[1501] = 7
    np.savez(folder / "data.npz", pixel_values=np.zeros((3000, 1, 8, 8), np.float32), labels=labels)
    with pytest.raises(UsageError, match="label 7"):
        run(folder)


def test_data_without_labels_need_another_task(folder: Path) -> None:
    np.savez(folder / "data.npz", pixel_values=np.zeros((40, 1, 8, 8), np.float32))
    with pytest.raises(UsageError, match="no labels") as caught:
        run(folder)
    assert "--task distil" in str(caught.value.hint)
    result = run(folder, replace(SETTINGS, task="distil"))
    assert result.curve.quality_name == "agreement with the teacher"


def test_a_batch_larger_than_the_data_takes_all(folder: Path) -> None:
    assert run(folder, replace(SETTINGS, batch=500, steps=(2, 2, 2))).tokens_per_second is not None


def test_the_papers_recipe_ends_near_its_budget(folder: Path) -> None:
    result = run(folder, replace(SETTINGS, recipe="paper", budget=0.5, steps=(20, 20, 60)))
    source = json.loads((folder / "out" / "config.json").read_text())["acm"]["source"]
    assert source["settings"]["init"] == "random"
    budgets = [entry["budget"] for entry in result.history if entry["phase"] == 3]
    assert abs(np.mean(budgets[-5:]) - 0.5) < 0.15
