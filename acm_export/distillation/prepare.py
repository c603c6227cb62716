"""What is looked at before any training, and how samples reach a model in order."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import CheckpointError, OutputError, UsageError
from acm_export.base.files import staging_folder
from acm_export.checkpoints.folder import PROCESSOR_FILES
from acm_export.data.checks import label_rows
from acm_export.data.collate import LABELS, model_inputs
from acm_export.data.open_data import open_data
from acm_export.distillation.collate import Collate
from acm_export.distillation.ctc import CTC
from acm_export.distillation.state import foreign_files, partial_folder
from acm_export.distillation.tasks import UserLoss
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.dataset import Dataset
    from acm_export.data.open_data import Data
    from acm_export.distillation.tasks import AnyTask
    from acm_export.distillation.train import Progress

CARD = "MODEL_CARD.md"
_OURS = ("config.json", "model.safetensors", CARD, *PROCESSOR_FILES)
_CHECKED = 256


def check_output(output: Path) -> None:
    """Find out before any training whether the result can be written, and what it would replace.

    Raises:
        OutputError: It cannot, or there is something else than an earlier result.
    """
    another = "choose another folder with -o"
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} exists and is not a folder", another)
    found = sorted(p.name for p in output.iterdir()) if output.exists() else []
    foreign = [name for name in found if name not in _OURS]
    if foreign:
        raise OutputError(f"{output} holds other files: {', '.join(foreign[:5])}", another)
    if found and not _has_acm_section(output / "config.json"):
        raise OutputError(f"{output} holds no ACM model, but {', '.join(found[:5])}, which would be replaced", another)
    if beside := foreign_files(output):
        place = partial_folder(output)
        raise OutputError(f"{place} holds other files than the state of a run: {', '.join(beside[:5])}", another)
    with staging_folder(output):
        pass


def _has_acm_section(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("acm"), dict)


def open_training_data(
    teacher: Checkpoint,
    task: AnyTask,
    data: Data,
    held_out: Data | None = None,
    processor: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Open samples to train with, and samples that are held out; all checks that need no training are made.

    Args:
        teacher: The dense model.
        task: Task of the training; without labels, sounds need no transcripts.
        data: Samples to train with, as :func:`open_data` takes them.
        held_out: Samples to measure the curve on; by default one in five of ``data``.
        processor: Folder or file of the image processor's settings, where they are elsewhere.

    Raises:
        UsageError: The data cannot be read, or do not fit the model or its task.
    """
    inputs = teacher.family.data_inputs(teacher.model.config)
    opened = partial(
        open_data, inputs=inputs, model_folder=teacher.path, processor=processor, transcripts=task.needs_labels
    )
    samples = opened(data)
    training, other = samples.split() if held_out is None else (samples, opened(held_out, option="--eval-data"))
    for part in (training, other):
        _check_samples(part, Collate(inputs, task), task, teacher)
    return training, other


def _check_samples(samples: Dataset, collate: Collate, task: AnyTask, teacher: Checkpoint) -> None:
    """Check 256 samples, spread evenly, and all labels where they can be had at once."""
    labels = samples.labels
    if task.needs_labels and labels is not None:
        task.check({LABELS: torch.from_numpy(label_rows(labels, samples.name))})
    some = samples.spread(_CHECKED)
    for index in range(len(some)):
        batch = collate([some[index]])
        if isinstance(task, CTC):
            frames = int(batch[MASK].sum()) if MASK in batch else batch[collate.inputs[0].name].shape[1]
            task.check_length(batch[LABELS][0], teacher.family.tokens(teacher.model.config, frames))


def check_model(model: PreTrainedModel) -> None:
    """Refuse a teacher that cannot teach.

    Raises:
        CheckpointError: A weight is not finite.
    """
    broken = next((name for name, value in model.state_dict().items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise CheckpointError(f"{broken} of the model holds NaN or infinity", "take a sound copy of it")


def check_loss(model: PreTrainedModel, samples: Dataset, collate: Collate, task: AnyTask) -> None:
    """Try a loss of the user's on two samples.

    Args:
        model: The teacher in float32, without gradients; ends so.
        samples: At least one.
        collate: From samples to a batch.
        task: Losses that are not the user's are not tried.

    Raises:
        UsageError: It fails, or has no gradient.
    """
    if not isinstance(task, UserLoss):
        return
    batch = collate([samples[0], samples[len(samples) - 1]] if collate.takes_mask else [samples[0]])
    batch = {name: value.to(model.device) for name, value in batch.items()}
    inputs = model_inputs(batch)
    with torch.no_grad():
        teacher = model(**inputs)
    model.requires_grad_()
    try:
        value = task.loss(model(**inputs), batch, teacher, None)
    finally:
        model.requires_grad_(requires_grad=False)
    if not value.requires_grad:
        raise UsageError(f"{task.name} returned a loss that does not depend on the model's output", "use output in it")


def in_order(
    samples: Dataset, *, collate: Collate, size: int, device: torch.device, progress: Progress
) -> Iterator[dict[str, torch.Tensor]]:
    """All samples, a batch at a time."""
    for start in range(0, len(samples), size):
        batch = collate([samples[i] for i in range(start, min(start + size, len(samples)))])
        progress.batch()
        yield {name: value.to(device) for name, value in batch.items()}
