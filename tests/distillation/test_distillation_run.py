"""A run from a dense folder to an ACM folder: result, seeds, labels and failures."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from distillation_runs import SETTINGS, StepCounter, run, same, vit, weights

from acm_export.base.errors import DistillationError, OutputError, UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.distillation import train
from acm_export.distillation.run import run_distillation
from acm_export.distillation.state import partial_folder
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vit(tmp_path)


def test_a_dense_folder_becomes_an_acm_folder_with_its_provenance(folder: Path) -> None:
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


def test_training_changes_every_part_and_lowers_the_loss_of_phase_1(folder: Path) -> None:
    before = run(folder, replace(SETTINGS, steps=(0, 0, 0), init="random"), "before")
    after = run(folder, replace(SETTINGS, steps=(80, 10, 10), init="random"), "after")
    a, b = weights(folder / "before"), weights(folder / "after")
    for name in a:
        assert torch.equal(a[name], b[name]) == name.endswith("thresholds"), name
    losses = [entry["loss"] for entry in after.history if entry["phase"] == 1]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert before.history == ()


def test_without_steps_all_learners_match_the_teacher(folder: Path) -> None:
    run(folder, replace(SETTINGS, steps=(0, 0, 0), num_learners=4))
    teacher, student = load_checkpoint(folder / "dense").model, load_checkpoint(folder / "out").model
    for _, layer in acm_layers(student):
        layer.thresholds.fill_(float("-inf"))
    images = {"pixel_values": torch.randn(6, 1, 8, 8)}
    with torch.no_grad():
        torch.testing.assert_close(student(**images).logits, teacher(**images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", [{}, {"recipe": "paper", "budget": 0.5}])
def test_the_same_settings_give_the_same_weights_and_another_seed_does_not(
    folder: Path, recipe: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, **recipe)
    run(folder, settings, "a")
    run(folder, settings, "b")
    run(folder, replace(settings, seed=1), "c")
    assert same(folder / "a", folder / "b")
    assert not same(folder / "a", folder / "c")


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_nan_is_reported_with_phase_step_and_layer(folder: Path, monkeypatch: pytest.MonkeyPatch, phase: int) -> None:
    step = {1: 4, 2: 2, 3: 4}[phase]
    log_step = train.Trainer._log_step

    def poison(self: Any, loss: Any, trained: Any, state: Any) -> None:
        log_step(self, loss, trained, state)
        if (trained.number, state.step) == (phase, step - 1):
            with torch.no_grad():
                layer = dict(acm_layers(self.student))["vit.layers.1.mlp"]
                layer.w2.fill_(float("nan"))
                layer.gate.linears[0].weight.fill_(float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_log_step", poison)
        with pytest.raises(DistillationError) as caught:
            run(folder)
    assert f"phase {phase}" in str(caught.value)
    assert f"step {step}" in str(caught.value)
    assert "vit.layers.1.mlp" in str(caught.value)
    assert "out.partial" in str(caught.value.hint)
    lower = replace(SETTINGS, learning_rates=(1e-4, 1e-4, 1e-5))
    assert run(folder, lower).resumed is not None  # the state that was kept is sound
    assert all(bool(tensor.isfinite().all()) for tensor in weights(folder / "out").values())


def test_a_state_with_nan_is_not_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_step = train.Trainer._log_step

    def poison(self: Any, loss: Any, trained: Any, state: Any) -> None:
        log_step(self, loss, trained, state)
        if (trained.number, state.step) == (3, 4):  # saved after this step
            with torch.no_grad():
                self.student.classifier.weight[0, 0] = float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_log_step", poison)
        with pytest.raises(DistillationError, match=r"step 4, first in classifier\.weight"):
            run(folder)
    assert run(folder).resumed == (3, 2)


def test_an_earlier_result_is_replaced_but_not_other_files(folder: Path) -> None:
    quick = replace(SETTINGS, steps=(1, 0, 0))
    run(folder, quick)
    run(folder, replace(quick, seed=1))
    (folder / "out" / "mine.txt").write_text("mine")
    progress = StepCounter()
    with pytest.raises(OutputError, match=r"mine\.txt"):
        run_distillation(load_checkpoint(folder / "dense"), folder / "data.npz", None, quick, folder / "out", progress)
    assert progress.stages == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(40, 5), "label 5 is out of range"),
        (np.full(40, -1), "label -1"),
        (np.zeros((40, 2), int), "the number of one class"),
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


def test_data_without_labels_needs_the_task_distil(folder: Path) -> None:
    np.savez(folder / "data.npz", pixel_values=np.zeros((40, 1, 8, 8), np.float32))
    with pytest.raises(UsageError, match="no labels") as caught:
        run(folder)
    assert "--task distil" in str(caught.value.hint)
    result = run(folder, replace(SETTINGS, task="distil"))
    assert result.curve.quality_name == "agreement with the teacher"


def test_a_batch_larger_than_the_data_uses_all_samples(folder: Path) -> None:
    assert run(folder, replace(SETTINGS, batch=500, steps=(2, 2, 2))).tokens_per_second is not None


def test_the_papers_recipe_ends_near_its_budget(folder: Path) -> None:
    result = run(folder, replace(SETTINGS, recipe="paper", budget=0.5, steps=(20, 20, 60)))
    source = json.loads((folder / "out" / "config.json").read_text())["acm"]["source"]
    assert source["settings"]["init"] == "random"
    budgets = [entry["budget"] for entry in result.history if entry["phase"] == 3]
    assert abs(np.mean(budgets[-5:]) - 0.5) < 0.15
