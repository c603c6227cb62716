"""What is looked at before any training, and how samples reach a model in order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acm_export.base.errors import CheckpointError, OutputError, UsageError
from acm_export.base.files import staging_folder
from acm_export.checkpoints.folder import PROCESSOR_FILES
from acm_export.data.collate import LABELS, Collate, model_inputs
from acm_export.distillation.ctc import CTC
from acm_export.distillation.inputs import check_shape, check_values
from acm_export.distillation.state import foreign_files, partial_folder
from acm_export.distillation.tasks import UserLoss
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.samples import Samples
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


def check_samples(samples: Samples, collate: Collate, task: AnyTask, teacher: Checkpoint) -> None:
    """Look before any training at 256 samples, spread evenly, and at all labels where they can be had at once.

    Raises:
        UsageError: They do not fit the model or its task.
    """
    labels = getattr(samples, "labels", None)
    if task.needs_labels and isinstance(labels, np.ndarray):
        task.check({LABELS: torch.from_numpy(labels)})
    for index in sorted({i * len(samples) // _CHECKED for i in range(_CHECKED)}):
        batch = collate([samples[index]])
        if isinstance(task, CTC):
            frames = int(batch[MASK].sum()) if MASK in batch else batch[collate.names[0]].shape[1]
            task.check_length(batch[LABELS][0], teacher.family.tokens(teacher.model.config, frames))


def check_model(model: PreTrainedModel) -> None:
    """Refuse a teacher that cannot teach.

    Raises:
        CheckpointError: A weight is not finite.
    """
    broken = next((name for name, value in model.state_dict().items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise CheckpointError(f"{broken} of the model holds NaN or infinity", "take a sound copy of it")


def check_loss(model: PreTrainedModel, samples: Samples, collate: Collate, task: AnyTask) -> None:
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


def collate_for(teacher: Checkpoint, task: AnyTask) -> Collate:
    """How samples become batches for a model."""
    config = teacher.model.config
    inputs, bounds = teacher.family.inputs(config), teacher.family.bounds(config)

    def check(batch: dict[str, torch.Tensor]) -> None:
        for spec in inputs:
            if spec.name in batch:
                check_shape(spec, list(batch[spec.name].shape[1:]), bounds)
                check_values(spec, batch[spec.name])
        if task.needs_labels and LABELS not in batch:
            raise UsageError(
                f"a sample has no labels, which the task {task.name} needs",
                "name them labels or label, as numbers; --task distil takes the teacher's outputs in their place",
            )
        task.check(batch)

    names = [spec.name for spec in inputs]
    dtypes = {spec.name: spec.dtype for spec in inputs}
    return Collate(names, dtypes, takes_mask=MASK in names, check=check)


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
