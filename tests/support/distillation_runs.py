"""Short distillation runs, and stand-ins for what interrupts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tiny_families import dense_model

from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.distillation.result import AcmizeResult

SETTINGS = AcmizeSettings(num_learners=3, steps=(5, 4, 6), batch=8, checkpoint_every=2)


class Killed(BaseException):
    """Stands for a signal that cannot be caught."""


class StepCounter:
    """Counts training steps, and dies at one of them if told to."""

    def __init__(self, dies_at: int = -1, dies_of: type[BaseException] = Killed) -> None:
        self._steps, self._dies_at, self._dies_of = 0, dies_at, dies_of
        self.stages: list[tuple[str, int | None]] = []

    def stage(self, title: str, batches: int | None) -> None:
        self.stages.append((title, batches))

    def batch(self, note: str = "") -> None:
        self._steps += "loss" in note
        if self._steps == self._dies_at:
            raise self._dies_of


def vit(folder: Path) -> Path:
    dense_model("vit").save_pretrained(folder / "dense")
    generator = np.random.default_rng(0)
    images = generator.standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", pixel_values=images, labels=generator.integers(0, 5, 40))
    return folder


def run(
    folder: Path,
    settings: AcmizeSettings = SETTINGS,
    name: str = "out",
    dies_at: int = -1,
    dies_of: type[BaseException] = Killed,
    **options: Any,
) -> AcmizeResult:
    teacher, progress = load_checkpoint(folder / "dense"), StepCounter(dies_at, dies_of)
    return run_distillation(teacher, folder / "data.npz", None, settings, folder / name, progress, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder).model.state_dict())


def same(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
