"""The data of a calibration: most samples build the table, the held-out ones check it, some probe the learners."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.collate import LABELS, NO_LABEL
from acm_export.data.dataset import add_to_digest, held_out, spread
from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays, Batch
    from acm_export.data.dataset import Dataset


@dataclass(frozen=True)
class Survey:
    """Result of the first pass over the data.

    Args:
        samples: Number of samples that build the table.
        held_out: Number of samples that check it.
        batches: Number of batches of samples that build the table.
        unit: Samples that are held out together: the model's batch size if it is fixed, or 1.
        labelled: Whether the samples have labels.
        sha256: SHA-256 of all samples.
    """

    samples: int
    held_out: int
    batches: int
    unit: int
    labelled: bool
    sha256: str


class CalibrationData:
    """A dataset, split for a calibration.

    Args:
        dataset: Samples for the model; if the model's batch size is fixed, an incomplete last batch is left out.
        batch_size: Batch size; ignored if the model's batch size is fixed.

    Raises:
        UsageError: There are fewer samples than the model's fixed batch.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int = 32) -> None:
        fixed = [value.shape[0] for value in dataset.inputs if value.shape and isinstance(value.shape[0], int)]
        self._unit = int(fixed[0]) if fixed else 1
        self._size = self._unit if fixed else batch_size
        units = len(dataset) // self._unit
        if not units:
            raise UsageError(
                f"{dataset.name} has {len(dataset)} samples; the model's batch size is fixed to {self._unit}",
                "give more samples",
            )
        self._used = dataset.take(np.arange(units * self._unit))
        self._marks = held_out(units)

    @property
    def name(self) -> str:
        """Name of the data."""
        return self._used.name

    def survey(self) -> Survey:
        """Read and check all samples.

        Raises:
            UsageError: A sample cannot be read, or does not fit the model.
        """
        digest = hashlib.sha256()
        labelled = False
        for batch in self._used.batches(self._size):
            labelled |= batch.labels is not None
            for row in range(batch.samples):
                add_to_digest(digest, _unpadded({name: array[row] for name, array in batch.named().items()}))
        held = int(self._marks.sum()) * self._unit
        samples = len(self._used) - held
        return Survey(samples, held, -(-samples // self._size), self._unit, labelled, digest.hexdigest())

    def calibration(self) -> Iterator[Batch]:
        """The samples that build the table."""
        return self._part(np.flatnonzero(~self._marks))

    def held_out(self) -> Iterator[Batch]:
        """The samples that check the table; whole batches if the model's batch size is fixed."""
        return self._part(np.flatnonzero(self._marks))

    def probe(self, samples: int) -> Iterator[Batch]:
        """About this many calibration samples, spread evenly; whole batches if the model's batch size is fixed."""
        units = np.flatnonzero(~self._marks)
        return self._part(units[spread(len(units), max(samples // self._unit, 1))])

    def _part(self, units: NDArray[np.int64]) -> Iterator[Batch]:
        samples = (units[:, None] * self._unit + np.arange(self._unit)).ravel()
        return self._used.take(samples).batches(self._size)


def _unpadded(sample: Arrays) -> Arrays:
    """A sample without the padding of its batch, so that its hash does not depend on the samples beside it."""
    mask, labels = sample.get(MASK), sample.get(LABELS)
    if mask is not None and mask.ndim == 1:
        marked = np.flatnonzero(mask)
        used = slice(int(marked.min(initial=len(mask))), int(marked.max(initial=-1)) + 1)
        sample = {name: array[used] if array.shape == mask.shape else array for name, array in sample.items()}
    if labels is not None and labels.ndim == 1:
        sample[LABELS] = labels[: int(np.flatnonzero(labels != NO_LABEL).max(initial=-1)) + 1]
    return sample
