"""Choose the samples of each batch, and collate them for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import UsageError
from acm_export.data.collate import LABELS, collate
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.base.progress import Progress
    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.distillation.tasks import AnyTask

_PRIME = 1_000_003


class StepOrder:
    """Sample indices of the steps ``first`` to ``last`` - 1; every epoch has a new random order.

    The samples of a step depend only on the seed and the step, so a resumed run continues exactly as if it had not
    been interrupted.

    Args:
        samples: Number of samples.
        batch_size: Samples per step; all samples if there are fewer.
        seed: Seed of the random orders.
        first: First step.
        last: Step after the last one.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, first: int, last: int) -> None:
        self.batch_size = min(batch_size, samples)
        self.drop_last = True
        self._samples, self._seed, self._first, self._last = samples, seed, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self._samples // self.batch_size
        epoch, order = -1, torch.empty(0)
        for step in range(self._first, self._last):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(mix_seeds(self._seed, epoch))
                order = torch.randperm(self._samples, generator=generator)
            start = step % per_epoch * self.batch_size
            yield order[start : start + self.batch_size].tolist()


def mix_seeds(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    value = 0
    for number in numbers:
        value = (value * _PRIME + number + 1) % (1 << 62)
    return value


class Collate:
    """Stacks samples of a dataset into a batch of tensors, and checks their labels.

    Args:
        inputs: Inputs of the model.
        task: Training task.
    """

    def __init__(self, inputs: Sequence[GraphInput], task: AnyTask) -> None:
        self.inputs, self._task = tuple(inputs), task

    @property
    def takes_mask(self) -> bool:
        """Whether the model takes an attention mask, so that samples may differ in length."""
        return any(value.name == MASK for value in self.inputs)

    def __call__(self, samples: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """Stack samples into one batch of tensors by name.

        Raises:
            UsageError: The samples cannot be stacked, or their labels do not fit the task.
        """
        stacked = collate(samples, self.inputs)
        batch = {name: torch.from_numpy(array) for name, array in stacked.named().items()}
        if self._task.needs_labels and LABELS not in batch:
            raise UsageError(
                f"a sample has no labels, but the task {self._task.name} needs them",
                "add numbers named labels or label, put images or sounds into one subfolder per class, or imitate the "
                "teacher's outputs with --task distil",
            )
        self._task.check(batch)
        return batch


def batches_in_order(
    samples: Dataset, *, collate: Collate, size: int, device: torch.device, progress: Progress
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield all samples in order, one batch at a time.

    Args:
        samples: Samples to batch.
        collate: Makes a batch from samples.
        size: Samples per batch.
        device: Device of the batches.
        progress: Receives every batch.
    """
    for start in range(0, len(samples), size):
        batch = collate([samples[i] for i in range(start, min(start + size, len(samples)))])
        progress.batch()
        yield {name: value.to(device) for name, value in batch.items()}
