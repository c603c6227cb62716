"""A run that is killed or interrupted: what it keeps, and how the same command will resume it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from distillation_runs import SETTINGS, Killed, StepCounter, run, same, vit
from tiny_architectures import tiny_model

from acm_export.base.errors import DistillationError
from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.state import fingerprint, partial_folder
from acm_export.distillation.teacher import Teacher
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.distillation.result import AcmizeResult


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vit(tmp_path)


@pytest.mark.parametrize("dies_at", [1, 5, 7, 10, 15])
def test_a_resumed_run_ends_with_the_same_weights(folder: Path, dies_at: int) -> None:
    whole = run(folder, name="whole")
    with pytest.raises(Killed):
        run(folder, dies_at=dies_at)
    assert not (folder / "out").exists()
    result = run(folder)
    assert result.resumed is not None
    assert same(folder / "whole", folder / "out")
    assert result.history == whole.history


def test_a_kill_during_the_write_of_a_state_keeps_the_previous_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_kill_during_the_quality_measurement_loses_no_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("acm_export.distillation.evaluate.Evaluation.curve", dying)
        with pytest.raises(Killed):
            run(folder)
    result = run(folder)
    assert result.resumed == (4, 0)
    assert result.tokens_per_second is None


def test_a_resumed_run_logs_where_it_resumes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "acm_export")
    with pytest.raises(Killed):
        run(folder, dies_at=8)  # step 3 of phase 2; every second step is saved
    assert "resum" not in caplog.text
    run(folder)
    assert "resuming at step 2 of phase 2 (gates)" in caplog.messages


@pytest.mark.parametrize(
    ("dies_at", "message"),
    [
        (0, "interrupted before a state was saved; the same command will start from the beginning"),
        (1, "interrupted; the same command will resume at step 0 of phase 1 (learners)"),
        (8, "interrupted; the same command will resume at step 2 of phase 2 (gates)"),
    ],
)
def test_an_interrupt_says_where_the_same_command_resumes(
    folder: Path, caplog: pytest.LogCaptureFixture, dies_at: int, message: str
) -> None:
    caplog.set_level(logging.INFO, "acm_export")
    with pytest.raises(KeyboardInterrupt):
        run(folder, dies_at=dies_at, dies_of=KeyboardInterrupt)
    assert message in caplog.messages


def test_an_interrupt_during_the_quality_measurement_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("acm_export.distillation.evaluate.Evaluation.curve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert "interrupted; the same command will resume at the quality measurement after phase 3" in caplog.messages


def test_stages_have_totals_and_say_what_is_left(folder: Path) -> None:
    progress = StepCounter()
    run_distillation(load_checkpoint(folder / "dense"), folder / "data.npz", None, SETTINGS, folder / "out", progress)
    assert progress.stages[1:4] == [
        ("phase 1 of 3: learners (15 steps left in all phases)", 5),
        ("phase 2 of 3: gates (10 steps left in all phases)", 4),
        ("phase 3 of 3: whole model (6 steps left in all phases)", 6),
    ]


def test_a_run_with_other_settings_does_not_resume(folder: Path) -> None:
    with pytest.raises(Killed):
        run(folder, dies_at=6)
    with pytest.raises(DistillationError, match="other settings") as caught:
        run(folder, replace(SETTINGS, seed=5))
    assert "--restart" in str(caught.value.hint)
    assert run(folder, replace(SETTINGS, seed=5), restart=True).resumed is None


def test_a_broken_state_file_is_named(folder: Path) -> None:
    with pytest.raises(Killed):
        run(folder, dies_at=6)
    path = partial_folder(folder / "out") / "state.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DistillationError, match=r"state\.pt cannot be read"):
        run(folder)


@pytest.mark.parametrize(("first", "second"), [("encoder", "decoder"), ("encoder", "whole"), ("whole", "encoder")])
def test_a_run_on_another_part_does_not_resume(first: str, second: str, tmp_path: Path) -> None:
    model = tiny_model("whisper")
    model.save_pretrained(tmp_path / "dense")
    settings = replace(SETTINGS, task="distil", num_learners=3)

    def run_part(part: str, dies_at: int = -1, **options: Any) -> AcmizeResult:
        teacher = load_checkpoint(tmp_path / "dense", part=part)
        samples = [example_inputs(teacher.interface, seed=seed) for seed in range(10)]
        data = {name: np.concatenate([sample[name].numpy() for sample in samples]) for name in samples[0]}
        np.savez(tmp_path / "data.npz", **data)
        progress = StepCounter(dies_at)
        return run_distillation(teacher, tmp_path / "data.npz", None, settings, tmp_path / "out", progress, **options)

    with pytest.raises(Killed):
        run_part(first, dies_at=6)
    with pytest.raises(DistillationError, match="other settings, model, part, data"):
        run_part(second)
    assert run_part(first).resumed is not None


def test_the_part_alone_makes_another_run(folder: Path) -> None:
    teacher = Teacher.of_checkpoint(load_checkpoint(folder / "dense"))
    parts = {fingerprint(SETTINGS, replace(teacher, part=part), "data", 1) for part in (None, "vision", "text")}
    assert len(parts) == 3
    assert fingerprint(SETTINGS, teacher, "data", 1) in parts
