"""Batches of tensors for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import UsageError
from acm_export.data.collate import LABELS, collate
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.distillation.tasks import AnyTask


class Collate:
    """Stacks samples of a dataset, and checks their labels.

    Args:
        inputs: Inputs of the model.
        task: Task of the training.
    """

    def __init__(self, inputs: Sequence[GraphInput], task: AnyTask) -> None:
        self.inputs, self._task = tuple(inputs), task

    @property
    def takes_mask(self) -> bool:
        """Whether the model takes an attention mask, so that samples may differ in length."""
        return any(value.name == MASK for value in self.inputs)

    def __call__(self, samples: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """Samples of a :class:`Dataset` as one batch of tensors by name.

        Raises:
            UsageError: They cannot be stacked, or their labels do not fit the task.
        """
        stacked = collate(samples, self.inputs)
        batch = {name: torch.from_numpy(array) for name, array in stacked.named().items()}
        if self._task.needs_labels and LABELS not in batch:
            raise UsageError(
                f"a sample has no labels, which the task {self._task.name} needs",
                "name them labels or label, as numbers; with --task distil the teacher's outputs replace them",
            )
        self._task.check(batch)
        return batch
