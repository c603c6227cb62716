"""What is looked at before any training, and how samples reach a model in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acm_export.checkpoints.folder import PROCESSOR_FILES
from acm_export.distillation.collate import LABELS, Collate
from acm_export.errors import OutputError, UsageError
from acm_export.files import staging_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint
    from acm_export.distillation.samples import Samples
    from acm_export.distillation.tasks import AnyTask
    from acm_export.distillation.train import Progress
    from acm_export.surgery import InputSpec

CARD = "MODEL_CARD.md"
_OURS = ("config.json", "model.safetensors", CARD, *PROCESSOR_FILES)
_CHECKED = 256


def check_output(output: Path) -> None:
    """Find out before any training whether the result can be written.

    Raises:
        OutputError: It cannot.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} exists and is not a folder", "choose another folder with -o")
    foreign = sorted(p.name for p in output.iterdir() if p.name not in _OURS) if output.exists() else []
    if foreign:
        raise OutputError(f"{output} holds other files: {', '.join(foreign[:5])}", "choose another folder with -o")
    with staging_folder(output):
        pass


def check_samples(samples: Samples, collate: Collate, task: AnyTask) -> None:
    """Look before any training at 256 samples, spread evenly, and at all labels where they can be had at once.

    Raises:
        UsageError: They do not fit the model or its task.
    """
    labels = getattr(samples, "labels", None)
    if task.needs_labels and isinstance(labels, np.ndarray):
        task.check({LABELS: torch.from_numpy(labels)})
    for index in sorted({i * len(samples) // _CHECKED for i in range(_CHECKED)}):
        collate([samples[index]])


def collate_for(teacher: Checkpoint, task: AnyTask) -> Collate:
    """How samples become batches for a model."""
    inputs = teacher.family.inputs(teacher.model.config)
    names = [spec.name for spec in inputs]

    def check(batch: dict[str, torch.Tensor]) -> None:
        for spec in inputs:
            if spec.name in batch:
                _check_shape(spec, list(batch[spec.name].shape[1:]))
        if task.needs_labels and LABELS not in batch:
            raise UsageError(
                f"a sample has no labels, which the task {task.name} needs",
                "name them labels or label, as numbers; --task distil takes the teacher's outputs in their place",
            )
        task.check(batch)

    dtypes = {spec.name: spec.dtype for spec in inputs}
    return Collate(names, dtypes, takes_mask="attention_mask" in names, check=check)


def _check_shape(spec: InputSpec, shape: list[int]) -> None:
    """Of one sample, as the model's configuration wants it."""
    expected = spec.shape[1:]
    if len(shape) == len(expected) and all(
        size == want or isinstance(want, str) for size, want in zip(shape, expected, strict=True)
    ):
        return
    hint = None
    if len(shape) == len(expected) + 1 and shape[0] == 1:
        hint = "processors add a batch dimension with return_tensors: take their result[0]"
    raise UsageError(
        f"{spec.name} of a sample has the shape {shape}, the model takes [{', '.join(map(str, expected))}]", hint
    )


def in_order(
    samples: Samples, *, collate: Collate, size: int, device: torch.device, progress: Progress
) -> Iterator[dict[str, torch.Tensor]]:
    """All samples, a batch at a time."""
    for start in range(0, len(samples), size):
        batch = collate([samples[i] for i in range(start, min(start + size, len(samples)))])
        progress.batch()
        yield {name: value.to(device) for name, value in batch.items()}


class Few:
    """A few samples, spread evenly."""

    def __init__(self, samples: Samples, count: int) -> None:
        self.name, self._samples, self._count = samples.name, samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._samples[index * len(self._samples) // self._count]
