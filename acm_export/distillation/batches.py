"""Which samples a batch holds, and how samples become a batch for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import UsageError
from acm_export.data.collate import LABELS, Collate
from acm_export.distillation.checks import check_shape, check_values
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from acm_export.base.progress import Progress
    from acm_export.checkpoints import Checkpoint
    from acm_export.data.samples import Samples
    from acm_export.distillation.tasks import AnyTask

_PRIME = 1_000_003


class StepOrder:
    """Sample indices of the steps ``first`` to ``last``, epoch after epoch, each in its own order.

    A step's samples depend on the seed and the step alone, so a resumed run continues exactly as it would have.

    Args:
        samples: Number of samples.
        batch_size: Samples per step; all samples where there are fewer.
        seed: Seed of the orders.
        first: First step.
        last: Step to end before.
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
    """One seed from several numbers."""
    value = 0
    for number in numbers:
        value = (value * _PRIME + number + 1) % (1 << 62)
    return value


class EvenSubset:
    """A subset of samples, spread evenly.

    Args:
        samples: All samples.
        count: Size of the subset.
    """

    def __init__(self, samples: Samples, count: int) -> None:
        self.name, self._samples, self._count = samples.name, samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._samples[index * len(self._samples) // self._count]


def collate_for(teacher: Checkpoint, task: AnyTask) -> Collate:
    """A function from samples to a batch for a model, which checks inputs and labels.

    Args:
        teacher: Model that takes the batches.
        task: Task that uses the labels.
    """
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
                "name them labels or label, as numbers; --task distil imitates the teacher's outputs instead",
            )
        task.check(batch)

    names = [spec.name for spec in inputs]
    dtypes = {spec.name: spec.dtype for spec in inputs}
    return Collate(names, dtypes, takes_mask=MASK in names, check=check)


def batches_in_order(
    samples: Samples, *, collate: Collate, size: int, device: torch.device, progress: Progress
) -> Iterator[dict[str, torch.Tensor]]:
    """All samples in order, one batch at a time.

    Args:
        samples: Samples to go through.
        collate: Makes a batch of samples.
        size: Samples per batch.
        device: Device of the batches.
        progress: Receives every batch.
    """
    for start in range(0, len(samples), size):
        batch = collate([samples[i] for i in range(start, min(start + size, len(samples)))])
        progress.batch()
        yield {name: value.to(device) for name, value in batch.items()}
