"""Checks before any training: the output folder, the teacher, the samples, and a loss of the user's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from acm_export.base.errors import CheckpointError, OutputError, UsageError
from acm_export.base.files import staging_folder
from acm_export.checkpoints.folder import PROCESSOR_FILES
from acm_export.data.collate import LABELS, model_inputs
from acm_export.distillation.ctc import CTC
from acm_export.distillation.provenance import CARD
from acm_export.distillation.state import foreign_files, partial_folder
from acm_export.distillation.tasks import UserLoss
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.collate import Collate
    from acm_export.data.samples import Samples
    from acm_export.distillation.tasks import AnyTask
    from acm_export.surgery import InputSpec

_RESULT_FILES = ("config.json", "model.safetensors", CARD, *PROCESSOR_FILES)
_CHECKED_SAMPLES = 256


def check_output(output: Path) -> None:
    """Check that the result can be written, and that it would replace nothing but an earlier result.

    Raises:
        OutputError: The folder is not writable, or holds something else.
    """
    hint = "choose another folder with -o"
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} exists and is not a folder", hint)
    found = sorted(p.name for p in output.iterdir()) if output.exists() else []
    foreign = [name for name in found if name not in _RESULT_FILES]
    if foreign:
        raise OutputError(f"{output} holds other files: {', '.join(foreign[:5])}", hint)
    if found and not _has_acm_section(output / "config.json"):
        raise OutputError(f"{output} holds no ACM model but {', '.join(found[:5])}, which would be replaced", hint)
    if foreign := foreign_files(output):
        raise OutputError(
            f"{partial_folder(output)} holds files other than the state of a run: {', '.join(foreign[:5])}", hint
        )
    with staging_folder(output):
        pass


def _has_acm_section(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("acm"), dict)


def check_model(model: PreTrainedModel) -> None:
    """Check that all weights of the teacher are finite.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    broken = next((name for name, value in model.state_dict().items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise CheckpointError(f"{broken} of the model holds NaN or infinity", "use an undamaged copy of the model")


def check_samples(samples: Samples, collate: Collate, task: AnyTask, teacher: Checkpoint) -> None:
    """Check 256 samples, spread evenly, and all labels where they are in one array.

    Raises:
        UsageError: A sample or a label does not fit the model or its task.
    """
    labels = getattr(samples, "labels", None)
    if task.needs_labels and isinstance(labels, np.ndarray):
        task.check({LABELS: torch.from_numpy(labels)})
    for index in sorted({i * len(samples) // _CHECKED_SAMPLES for i in range(_CHECKED_SAMPLES)}):
        batch = collate([samples[index]])
        if isinstance(task, CTC):
            length = int(batch[MASK].sum()) if MASK in batch else batch[collate.names[0]].shape[1]
            task.check_length(batch[LABELS][0], teacher.family.tokens(teacher.model.config, length))


def check_shape(spec: InputSpec, shape: list[int], bounds: Mapping[str, tuple[int, int | None]]) -> None:
    """Compare the shape of a sample with the one that the model's configuration expects.

    Args:
        spec: Input of the model.
        shape: Shape of the sample, without a batch axis.
        bounds: Smallest and largest length of each dynamic dimension; None for no upper bound.

    Raises:
        UsageError: The shapes do not fit.
    """
    expected = spec.shape[1:]
    if len(shape) != len(expected) or any(
        size != want for size, want in zip(shape, expected, strict=True) if not isinstance(want, str)
    ):
        hint = None
        if len(shape) == len(expected) + 1 and shape[0] == 1:
            hint = "processors add a batch dimension with return_tensors: take their result[0]"
        raise UsageError(
            f"{spec.name} of a sample has the shape {shape}, the model takes [{', '.join(map(str, expected))}]", hint
        )
    for size, name in zip(shape, expected, strict=True):
        least, most = bounds.get(str(name), (0, None))
        if size < least or (most is not None and size > most):
            range_ = f"at least {least}" if most is None else f"{least} to {most}"
            raise UsageError(
                f"{spec.name} of a sample has {size} {name}, the model takes {range_}", "cut the sample or leave it out"
            )


def check_values(spec: InputSpec, batch: torch.Tensor) -> None:
    """Check that the values of an input ``[batch, ...]`` are finite and in range.

    Raises:
        UsageError: A number is not finite or out of range, or a mask covers a whole sample.
    """
    if batch.is_floating_point() and not bool(batch.isfinite().all()):
        raise UsageError(f"{spec.name} of a sample holds NaN or infinity", "fix the sample or leave it out")
    if spec.below is not None and batch.numel():
        lowest, highest = int(batch.min()), int(batch.max())
        if lowest < 0 or highest >= spec.below:
            bad = lowest if lowest < 0 else highest
            raise UsageError(f"{spec.name} of a sample holds {bad}, the model takes 0 to {spec.below - 1}")
    if spec.name == MASK and not bool(batch.bool().any(-1).all()):
        raise UsageError(f"{MASK} of a sample masks all of it", "leave such samples out")


def check_loss(model: PreTrainedModel, samples: Samples, collate: Collate, task: AnyTask) -> None:
    """Compute a loss of the user's own on two samples; the built-in losses are not tried.

    Args:
        model: Teacher in float32, without gradients; unchanged afterwards.
        samples: At least one sample.
        collate: Makes a batch of samples.
        task: Task whose loss is tried.

    Raises:
        UsageError: The loss fails, or has no gradient.
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
        raise UsageError(
            f"{task.name} returned a loss that does not depend on the model's output",
            "compute the loss from the argument output, without detach()",
        )
