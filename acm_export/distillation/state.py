"""The saved state of an interrupted run: one file beside the output, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import DistillationError, OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject
    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.distillation.teacher import Teacher

_FILE = "state.pt"
_STAGING = f"{_FILE}.tmp"
_MAY_CHANGE = ("learning_rates", "checkpoint_every")
"""Settings that may change when a run resumes; a lower learning rate helps after the loss became NaN or infinite."""

_RESTART = "give the same settings and data, or start over with --restart"


@dataclass
class State:
    """Position and tensors of a run. Random numbers need no state: they depend only on the seed and the step.

    Args:
        fingerprint: SHA-256 of settings, teacher, its part, and data.
        variances: Variance of the teacher's outputs by place.
        weights: Weights of the squared errors by place.
        phase: Number of the phase, 1 to 3; 4 when all phases are done.
        step: Number of finished steps of the phase.
        student: Tensors of the model by name.
        optimizer: State of the optimizer; empty at the start of a phase.
        scaler: State of the fp16 gradient scaler; empty if there is none.
        thresholds: Table from shares of learner FLOPs to thresholds, or None.
        history: Losses during the phases.
    """

    fingerprint: str
    variances: dict[str, float]
    weights: dict[str, float]
    phase: int = 1
    step: int = 0
    student: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    thresholds: torch.Tensor | None = None
    history: list[JsonObject] = field(default_factory=list)


def fingerprint(settings: AcmizeSettings, teacher: Teacher, data: str, processes: int) -> str:
    """Hex SHA-256 of everything that determines a result.

    Args:
        settings: Settings of the run.
        teacher: The teacher, of which the weights and the part count.
        data: SHA-256 of the training data.
        processes: Number of processes.
    """
    fixed = {name: value for name, value in asdict(settings).items() if name not in _MAY_CHANGE}
    identity = [fixed, teacher.sha256, teacher.part, data, processes]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def partial_folder(output: Path) -> Path:
    """The folder with the state of an unfinished run."""
    return output.with_name(output.name + ".partial")


def save_state(state: State, output: Path) -> None:
    """Replace the saved state atomically.

    Raises:
        OutputError: The state cannot be written; the previous state is unchanged.
    """
    folder = partial_folder(output)
    target, staging = folder / _FILE, folder / _STAGING
    try:
        folder.mkdir(exist_ok=True)
        with staging.open("wb") as handle:
            torch.save(vars(state), handle)
            handle.flush()
            os.fsync(handle.fileno())
        staging.replace(target)
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into a RuntimeError
        raise OutputError(
            f"cannot write {target}: {error}", "free some space; then the same command resumes"
        ) from error


def load_state(output: Path, expected: str) -> State | None:
    """Load the state of an unfinished run; returns None if there is none.

    Args:
        output: Output folder of the run.
        expected: Fingerprint of the run.

    Raises:
        DistillationError: The state cannot be read, or belongs to a run with other settings, model or data.
    """
    path = partial_folder(output) / _FILE
    if not path.is_file():
        return None
    try:
        state = State(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise DistillationError(f"{path} cannot be read: {error}", "start over with --restart") from error
    if state.fingerprint != expected:
        raise DistillationError(
            f"{path} belongs to a run with other settings, model, part, data or number of processes", _RESTART
        )
    return state


def has_state(output: Path) -> bool:
    """Whether an unfinished run can be resumed."""
    return (partial_folder(output) / _FILE).is_file()


def foreign_files(output: Path) -> list[str]:
    """Names of files in the folder of the state that are not part of it."""
    folder = partial_folder(output)
    if folder.exists() and not folder.is_dir():
        return [folder.name]
    return sorted(p.name for p in folder.iterdir() if p.name not in (_FILE, _STAGING)) if folder.is_dir() else []


def remove_state(output: Path) -> None:
    """Remove the state of an unfinished run, but no other files beside it.

    Raises:
        OutputError: The state cannot be removed.
    """
    folder = partial_folder(output)
    if not folder.is_dir():
        return
    try:
        for name in (_FILE, _STAGING):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"cannot remove {folder}: {error.strerror}", "remove it manually") from error
