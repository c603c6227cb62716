"""Tasks: the loss of phase 3 and the quality of a model's outputs.

Every task has the same methods. ``loss`` takes the student's ``output``, the ``batch`` (inputs and labels), the
``teacher``'s output (None if only labels are used) and ``valid`` (``[batch, tokens]``, False for padding).
``quality`` takes the same arguments and returns a sum and its weight; larger is better. ``check`` checks a batch before
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.base.errors import UsageError
from acm_export.data.checks import check_classes
from acm_export.data.collate import LABELS
from acm_export.data.user_function import failed, import_function
from acm_export.distillation.ctc import CTC
from acm_export.distillation.imitation import Imitation
from acm_export.distillation.losses import divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from transformers.utils import ModelOutput as Output

    from acm_export.surgery import ModelInterface

Arrays = dict[str, torch.Tensor]

_CLASSIFIERS = ("ForImageClassification", "ForSequenceClassification", "ForAudioClassification")


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
        logits = logits_of(output)
        loss = F.cross_entropy(logits.float(), batch[LABELS])
        return loss if teacher is None else 0.5 * (loss + divergence(logits, logits_of(teacher)))

    def quality(
        self,
        output: Output,
        batch: Arrays,
        teacher: Output | None,  # noqa: ARG002
        valid: torch.Tensor | None,  # noqa: ARG002
    ) -> tuple[float, float]:
        """Number of correct samples, and number of samples."""
        logits = logits_of(output)
        return float((logits.argmax(-1) == batch[LABELS]).sum()), float(len(logits))

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


def logits_of(output: Any) -> torch.Tensor:  # Any: an output of transformers, or a tensor
    """The logits of a classifier: its field ``logits``, or the whole output of a model of timm."""
    return torch.as_tensor(output if isinstance(output, torch.Tensor) else output.logits)


class UserLoss:
    """A custom loss: ``loss(output, batch, teacher_output) -> scalar tensor``.

    Args:
        function: Loss function.
        name: Name of the function, for errors and reports.
    """

    needs_labels = False
    quality_name = "negative loss"

    def __init__(self, function: Callable[..., object], name: str) -> None:
        self.name, self._function = name, function

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
    model: nn.Module,
    interface: ModelInterface,
    text: str | None,
    vocabulary: Mapping[str, int],
    loss: Callable[..., object] | None = None,
) -> AnyTask:
    """Return the task with a name, or by default the task of the architecture.

    Args:
        model: Teacher.
        interface: How to run the model.
        text: ``classification``, ``ctc``, ``distil``, ``module:function``, or None for the default.
        vocabulary: Label numbers of a speech model, by text; may be empty.
        loss: Loss function, instead of a task with a name.

    Raises:
        UsageError: The task is unknown, the architecture has no such task, or there are two tasks.
    """
    if loss is not None:
        if text is not None:
            raise UsageError(f"both a loss and the task {text!r} were given", "leave out one of them")
        return UserLoss(loss, getattr(loss, "__qualname__", type(loss).__name__))
    architecture = type(model).__name__
    possible = _tasks_of(architecture, model)
    name = text or possible[0]
    if ":" in name:
        return UserLoss(import_function(name, "--task"), name)
    if name not in possible:
        raise UsageError(
            f"{name!r} is not a task of {architecture}", f"choose {', '.join(possible)} or module:function"
        )
    config: Any = getattr(model, "config", None)
    if name == "classification":
        return Classification(_classes(model))
    if name == "ctc":
        space = vocabulary.get("|", vocabulary.get(" "))
        return CTC(int(config.pad_token_id or 0), config.vocab_size, space)
    return Imitation(interface.outputs, logits=_is_of_timm(model) and _classes(model) > 0)


def _tasks_of(architecture: str, model: nn.Module) -> list[str]:
    """Names of the tasks of an architecture, the default first."""
    one_label = getattr(getattr(model, "config", None), "problem_type", None) in (None, "single_label_classification")
    if (architecture.endswith(_CLASSIFIERS) or _is_of_timm(model)) and one_label and _classes(model) > 1:
        return ["classification", "distil"]
    return ["ctc", "distil"] if architecture.endswith("ForCTC") else ["distil"]


def _is_of_timm(model: nn.Module) -> bool:
    return hasattr(model, "pretrained_cfg") and hasattr(model, "num_classes")


def _classes(model: Any) -> int:  # Any: the configs of transformers have no common fields
    """Number of classes; 0 for a model of timm without a head."""
    return int(model.num_classes if _is_of_timm(model) else model.config.num_labels)
