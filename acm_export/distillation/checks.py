"""Checks before training: the output folder, the teacher, the samples, and a custom loss."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import CheckpointError, OutputError, UsageError
from acm_export.base.files import staging_folder
from acm_export.data.checks import label_rows
from acm_export.data.collate import LABELS, model_inputs
from acm_export.data.open_data import open_data
from acm_export.data.processor_files import PROCESSOR_FILES
from acm_export.distillation.batches import Collate
from acm_export.distillation.ctc import CTC
from acm_export.distillation.provenance import CARD
from acm_export.distillation.state import foreign_files, partial_folder
from acm_export.distillation.tasks import UserLoss
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    import os

    from torch import nn

    from acm_export.data.dataset import Dataset
    from acm_export.data.open_data import Data
    from acm_export.distillation.tasks import AnyTask
    from acm_export.distillation.teacher import Teacher

_RESULT_FILES = ("config.json", "model.safetensors", CARD, *PROCESSOR_FILES)
_CHECKED_SAMPLES = 256


def check_output(output: Path) -> None:
    """Check that the result can be written, and that it replaces nothing but an earlier result.

    Raises:
        OutputError: The folder is not writable, or contains something else.
    """
    hint = "choose another folder with -o"
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} exists and is not a folder", hint)
    found = sorted(p.name for p in output.iterdir()) if output.exists() else []
    foreign = [name for name in found if name not in _RESULT_FILES]
    if foreign:
        raise OutputError(f"{output} contains other files: {', '.join(foreign[:5])}", hint)
    if found and not _has_acm_section(output / "config.json"):
        raise OutputError(f"{output} is not an ACM model, and {', '.join(found[:5])} would be replaced", hint)
    if foreign := foreign_files(output):
        raise OutputError(
            f"{partial_folder(output)} contains files other than the state of a run: {', '.join(foreign[:5])}", hint
        )
    with staging_folder(output):
        pass


def _has_acm_section(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("acm"), dict)


def check_model(model: nn.Module) -> None:
    """Check that all weights of the teacher are finite; buffers may hold infinity, as causal masks do.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    broken = next((name for name, value in model.named_parameters() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise CheckpointError(
            f"the weight {broken} of the model contains NaN or infinity", "use an undamaged copy of the model"
        )


def open_training_data(
    teacher: Teacher,
    task: AnyTask,
    data: Data,
    eval_data: Data | None = None,
    processor: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Open the training and evaluation samples, and check them as far as possible before training.

    Args:
        teacher: Dense model.
        task: Training task; sounds need transcripts as labels for CTC.
        data: Training data, in any form that :func:`open_data` takes.
        eval_data: Data for the quality curve; None to hold out one in five samples of ``data``.
        processor: Folder or file of the tokenizer or processor, if the teacher has none.

    Raises:
        UsageError: The data cannot be read, or does not fit the model or its task.
    """
    inputs = teacher.interface.data_inputs()
    folder = teacher.folder or Path()
    opened = partial(
        open_data, inputs=inputs, model_folder=folder, processor=processor, transcripts=isinstance(task, CTC)
    )
    samples = opened(data)
    samples[0]  # refuses batches in place of samples before they are counted
    training, held_out = samples.split() if eval_data is None else (samples, opened(eval_data, option="--eval-data"))
    for part in (training, held_out):
        _check_samples(part, Collate(inputs, task), task, teacher)
    return training, held_out


def _check_samples(samples: Dataset, collate: Collate, task: AnyTask, teacher: Teacher) -> None:
    """Check 256 evenly spaced samples, and all labels if they are in one array."""
    labels = samples.labels
    if task.needs_labels and labels is not None:
        task.check({LABELS: torch.from_numpy(label_rows(labels, f"sample 0 of {samples.name}"))})
    some = samples.spread(_CHECKED_SAMPLES)
    for index in range(len(some)):
        batch = collate([some[index]])
        if isinstance(task, CTC):
            length = int(batch[MASK].sum()) if MASK in batch else batch[collate.inputs[0].name].shape[1]
            task.check_length(batch[LABELS][0], teacher.interface.tokens(length))


def check_loss(model: nn.Module, samples: Dataset, collate: Collate, task: AnyTask) -> None:
    """Try a custom loss on two samples; built-in losses are not tried.

    Args:
        model: Teacher in float32, without gradients; unchanged afterwards.
        samples: Samples; at least one.
        collate: Makes a batch from samples.
        task: Task whose loss to try.

    Raises:
        UsageError: The loss fails, or has no gradient.
    """
    if not isinstance(task, UserLoss):
        return
    batch = collate([samples[0], samples[len(samples) - 1]] if collate.takes_mask else [samples[0]])
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    inputs = model_inputs(batch)
    with torch.no_grad():
        teacher = model(**inputs)
    model.requires_grad_()
    try:
        value = task.loss(model(**inputs), batch, teacher, None)
    finally:
        model.requires_grad_(requires_grad=False)
    if not value.requires_grad:
        raise UsageError(
            f"{task.name} returned a loss that does not depend on the model's output",
            "compute the loss from the argument output, without detach()",
        )
