"""What a killed run goes on from: one file beside the output, replaced whole."""

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

    from acm_export.distillation.settings import AcmizeSettings

_FILE = "state.pt"
_STAGING = f"{_FILE}.tmp"
_FREE = ("learning_rates", "checkpoint_every")
"""Settings that may change between the parts of a run: after a loss that is not finite, a lower rate goes on."""

_RESTART = "give the same settings and data, or begin anew with --restart"


@dataclass
class State:
    """Where a run is. Random numbers need no state: those of a step follow from the seed and the step.

    Args:
        fingerprint: Of settings, teacher and data.
        variances: By place, of the teacher's outputs.
        weights: By place, of squared errors.
        phase: 1 to 3; 4 when all are done.
        step: Steps of the phase that are done.
        student: Tensors of the model by name.
        optimizer: Its state; empty at the beginning of a phase.
        scaler: Of fp16 gradients; empty without.
        dial: From shares to thresholds, or None.
        history: For each phase the losses on its way.
    """

    fingerprint: str
    variances: dict[str, float]
    weights: dict[str, float]
    phase: int = 1
    step: int = 0
    student: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    dial: torch.Tensor | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def fingerprint(settings: AcmizeSettings, teacher: str, data: str, processes: int) -> str:
    """Hex SHA-256 of all that determines a result."""
    fixed = {name: value for name, value in asdict(settings).items() if name not in _FREE}
    return hashlib.sha256(json.dumps([fixed, teacher, data, processes], sort_keys=True).encode()).hexdigest()


def partial_folder(output: Path) -> Path:
    """Where the state of an unfinished run is kept."""
    return output.with_name(output.name + ".partial")


def save_state(state: State, output: Path) -> None:
    """Write the state, whole or not at all.

    Raises:
        OutputError: It cannot be written; the one before is untouched.
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
        raise OutputError(f"cannot write {target}: {error}", "free some space; the same command goes on") from error


def load_state(output: Path, expected: str) -> State | None:
    """The state of an unfinished run, or None where there is none.

    Raises:
        DistillationError: It cannot be read, or is of a run with other settings, model or data.
    """
    path = partial_folder(output) / _FILE
    if not path.is_file():
        return None
    try:
        state = State(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise DistillationError(f"{path} cannot be read: {error}", "begin anew with --restart") from error
    if state.fingerprint != expected:
        raise DistillationError(f"{path} is of a run with other settings, model, data or number of processes", _RESTART)
    return state


def has_state(output: Path) -> bool:
    """Whether there is something to go on from."""
    return (partial_folder(output) / _FILE).is_file()


def foreign_files(output: Path) -> list[str]:
    """Names of what lies where the state is to be kept and is none of it."""
    folder = partial_folder(output)
    if folder.exists() and not folder.is_dir():
        return [folder.name]
    return sorted(p.name for p in folder.iterdir() if p.name not in (_FILE, _STAGING)) if folder.is_dir() else []


def remove_state(output: Path) -> None:
    """Forget an unfinished run; what else lies beside its state stays.

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
        raise OutputError(f"cannot remove {folder}: {error.strerror}", "remove it by hand") from error
