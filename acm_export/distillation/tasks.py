"""Tasks: the loss of phase 3 and the quality of a model's outputs.

Every task has the same methods. ``loss`` takes the student's ``output``, the ``batch`` (inputs and labels), the
``teacher``'s output (None if only labels are used) and ``valid`` (``[batch, tokens]``, False for padding).
``quality`` takes the same arguments and returns a sum and its weight; larger is better. ``check`` checks a batch before
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.base.errors import UsageError
from acm_export.data.checks import check_classes
from acm_export.data.collate import LABELS
from acm_export.data.user_function import failed, import_function
from acm_export.distillation.ctc import CTC
from acm_export.distillation.losses import divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput as Output

    from acm_export.surgery import ModelInterface

Arrays = dict[str, torch.Tensor]


class Classification:
    """One label per sample; with a teacher, the student also imitates its distribution.

    Args:
        num_labels: Number of the model's classes.
    """

    name, quality_name, needs_labels = "classification", "accuracy", True

    def __init__(self, num_labels: int) -> None:
        self._num_labels = num_labels

    def loss(self, output: Output, batch: Arrays, teacher: Output | None, valid: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
        """Cross-entropy; with a teacher, the mean of cross-entropy and divergence from its logits."""
        loss = F.cross_entropy(output.logits.float(), batch[LABELS])
        return loss if teacher is None else 0.5 * (loss + divergence(output.logits, teacher.logits))

    def quality(
        self,
        output: Output,
        batch: Arrays,
        teacher: Output | None,  # noqa: ARG002
        valid: torch.Tensor | None,  # noqa: ARG002
    ) -> tuple[float, float]:
        """Number of correct samples, and number of samples."""
        return float((output.logits.argmax(-1) == batch[LABELS]).sum()), float(len(output.logits))

    def check(self, batch: Arrays) -> None:
        """Check that every label is one of the model's classes.

        Raises:
            UsageError: A label is out of range, or the labels are not one class per sample.
        """
        labels = batch[LABELS]
        if labels.ndim != 1 or labels.is_floating_point():
            kind = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape[1:])}"
            raise UsageError(
                f"the labels of a sample are {kind}; expected the number of one class",
                "number the classes from 0, as int64 []; --task distil imitates the teacher's outputs instead",
            )
        check_classes(labels.numpy(force=True), self._num_labels)


class Imitation:
    """Imitate the teacher's outputs, without labels.

    Args:
        fields: Fields of the output to imitate.
    """

    name, needs_labels = "distil", False

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._features = "last_hidden_state" in fields  # a pooled output beside it follows from it
        self.quality_name = "cosine to the teacher" if self._features else "agreement with the teacher"

    def loss(self, output: Output, batch: Arrays, teacher: Output, valid: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
        """1 - cosine of each token and of their mean for features; divergence for logits."""
        if not self._features:
            return torch.stack([divergence(output[name], teacher[name], valid) for name in self._fields]).mean()
        ours, theirs = output.last_hidden_state.float(), teacher.last_hidden_state.float()
        tokens = 1 - F.cosine_similarity(ours, theirs, -1)
        weights = torch.ones_like(tokens) if valid is None else valid.to(tokens)
        pooled = 1 - F.cosine_similarity(_pool(ours, weights), _pool(theirs, weights), -1).mean()
        return (tokens * weights).sum() / weights.sum() + pooled

    def quality(
        self,
        output: Output,
        batch: Arrays,  # noqa: ARG002
        teacher: Output,
        valid: torch.Tensor | None,
    ) -> tuple[float, float]:
        """Cosine of the mean over tokens for features; number of equal argmaxes for logits."""
        if self._features:
            ours, theirs = output.last_hidden_state.float(), teacher.last_hidden_state.float()
            weights = ours.new_ones(ours.shape[:2]) if valid is None else valid.to(ours)
            cosine = F.cosine_similarity(_pool(ours, weights), _pool(theirs, weights), -1)
            return float(cosine.sum()), float(len(cosine))
        same = [output[name].argmax(-1) == teacher[name].argmax(-1) for name in self._fields]
        if valid is not None and valid.shape == same[0].shape:
            same = [value[valid] for value in same]
        return float(sum(value.sum() for value in same)), float(sum(value.numel() for value in same))

    def check(self, batch: Arrays) -> None:
        """Do nothing: labels are not used."""


class UserLoss:
    """A custom loss: ``loss(output, batch, teacher_output) -> scalar tensor``.

    Args:
        text: Loss function as ``module:function``.

    Raises:
        UsageError: The function cannot be imported.
    """

    needs_labels = False
    quality_name = "negative loss"

    def __init__(self, text: str) -> None:
        self.name = text
        self._function: Callable[..., object] = import_function(text, "--task")

    def loss(self, output: Output, batch: Arrays, teacher: Output | None, valid: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
        """The loss that the function returns.

        Raises:
            UsageError: The function fails, or does not return a scalar tensor.
        """
        try:
            value = self._function(output, batch, teacher)
        except Exception as error:  # user code may raise anything
            raise failed(f"{self.name} failed", error) from error
        if not isinstance(value, torch.Tensor) or value.ndim or not value.is_floating_point():
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UsageError(f"{self.name} returned {found}; expected a scalar tensor of a floating-point type")
        return value

    def quality(
        self, output: Output, batch: Arrays, teacher: Output | None, valid: torch.Tensor | None
    ) -> tuple[float, float]:
        """Negative loss, weighted by the number of samples."""
        size = len(next(iter(batch.values())))
        return -size * float(self.loss(output, batch, teacher, valid)), float(size)

    def check(self, batch: Arrays) -> None:
        """Do nothing: the function checks its own labels."""


AnyTask = Classification | CTC | Imitation | UserLoss


def task_for(
    model: PreTrainedModel, interface: ModelInterface, text: str | None, vocabulary: Mapping[str, int]
) -> AnyTask:
    """Return the task with a name, or by default the task of the architecture.

    Args:
        model: Teacher.
        interface: How to run the model.
        text: ``classification``, ``ctc``, ``distil``, ``module:function``, or None for the default.
        vocabulary: Label numbers of a speech model, by text; may be empty.

    Raises:
        UsageError: The task is unknown, or the architecture has no such task.
    """
    architecture = type(model).__name__
    possible = ["distil"]
    if architecture.endswith(("ForImageClassification", "ForSequenceClassification")):
        possible.insert(0, "classification")
    if architecture.endswith("ForCTC"):
        possible.insert(0, "ctc")
    name = text or possible[0]
    if ":" in name:
        return UserLoss(name)
    if name not in possible:
        raise UsageError(
            f"{name!r} is not a task of {architecture}", f"choose {', '.join(possible)} or module:function"
        )
    if name == "classification":
        return Classification(model.config.num_labels)
    if name == "ctc":
        space = vocabulary.get("|", vocabulary.get(" "))
        return CTC(int(model.config.pad_token_id or 0), model.config.vocab_size, space)
    return Imitation(interface.outputs)


def _pool(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (tokens * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
