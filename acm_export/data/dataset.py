"""A user's samples for a model: checked, by index or in batches, and split into used and held-out samples."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import Arrays, Batch
from acm_export.data.checks import check_rows, label_rows, missing_inputs
from acm_export.data.collate import LABELS, collate, pad
from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.data.batches import GraphInput

HOLD_OUT_EVERY = 5
"""Every verb holds out one sample in five: 20% measure an accuracy or a budget with about twice the error of the
rest. They are always the same, so that `calibrate` checks its table on samples that `acmize` did not train on."""

_GOLDEN_RATIO = 2654435769
"""2^32 ÷ φ: its multiples are spread evenly and repeat no short pattern (Knuth, TAOCP 3, 6.4)."""

_OPTIONAL = {MASK: 1, "token_type_ids": 0}
"""Optional inputs, and their values in samples that lack them."""

_DIGESTED = 256


class Reader(Protocol):
    """Samples as they come from a file or a function: values by name, labels under ``labels``.

    Reading is repeatable. A reader may have ``labels``, the labels of all samples ``[samples]``, if they are available
    without reading the samples; and ``rows``, which reads several samples of one shape as arrays ``[samples, ...]``.
    """

    @property
    def name(self) -> str:
        """Name for errors and reports."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, object]: ...


class Dataset:
    """Samples for a model; also a map-style PyTorch dataset.

    Args:
        reader: Where samples come from.
        inputs: Inputs of the model; other entries of a sample are ignored, except its labels.
        indices: Samples to use; all by default.
        raw_pixels: Images may have pixels from 0 to 255, because the model takes them.
    """

    def __init__(
        self,
        reader: Reader,
        inputs: Sequence[GraphInput],
        indices: NDArray[np.int64] | None = None,
        *,
        raw_pixels: bool = False,
    ) -> None:
        self.name, self.inputs = reader.name, tuple(inputs)
        self._reader, self._raw_pixels = reader, raw_pixels
        self._indices = np.arange(len(reader)) if indices is None else indices
        self._masked = any(value.name == MASK for value in inputs)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Arrays:
        """One sample: the model's inputs in its dtypes, without a batch axis, and ``labels`` if it has any.

        Raises:
            UsageError: The sample cannot be read, or does not fit the model.
        """
        place = int(self._indices[index])
        where = f"sample {place} of {self.name}"
        sample = self._reader[place]
        names = (LABELS, *(value.name for value in self.inputs))
        rows = {name: _as_array(name, sample[name], where)[None] for name in names if name in sample}
        return {name: array[0] for name, array in self._checked(rows, sample, [place]).items()}

    @property
    def labels(self) -> np.ndarray | None:
        """Labels of all samples, or None if they are only available by reading the samples."""
        labels = getattr(self._reader, "labels", None)
        return labels[self._indices] if isinstance(labels, np.ndarray) else None

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """A subset of the samples."""
        return Dataset(self._reader, self.inputs, self._indices[indices], raw_pixels=self._raw_pixels)

    def spread(self, samples: int) -> Dataset:
        """At most this many samples, spread evenly."""
        return self.take(spread(len(self), samples))

    def split(self) -> tuple[Dataset, Dataset]:
        """Split into the samples to use and those held out (:func:`held_out`).

        Raises:
            UsageError: There are too few samples to hold one out.
        """
        marks = held_out(len(self))
        if not marks.any():
            raise UsageError(
                f"{self.name} has {len(self)} samples; at least {HOLD_OUT_EVERY} are needed to hold one out",
                "give more samples",
            )
        return self.take(np.flatnonzero(~marks)), self.take(np.flatnonzero(marks))

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, ``size`` at a time; sequences are padded within a batch.

        Raises:
            UsageError: A sample cannot be read, does not fit the model, or cannot be stacked with others.
        """
        for start in range(0, len(self), size):
            places = self._indices[start : start + size]
            read = getattr(self._reader, "rows", None)
            if read is None:
                yield collate([self[i] for i in range(start, start + len(places))], self.inputs)
                continue
            checked = self._checked(read(places), self._reader[int(places[0])], places.tolist())
            yield Batch({value.name: checked[value.name] for value in self.inputs}, checked.get(LABELS))

    def digest(self) -> str:
        """Hex SHA-256 of the number of samples and of 256 of them, spread evenly."""
        found = hashlib.sha256(str(len(self)).encode())
        for index in spread(len(self), _DIGESTED).tolist():
            add_to_digest(found, self[index])
        return found.hexdigest()

    def _checked(self, rows: Mapping[str, np.ndarray], held: Mapping[str, object], places: Sequence[int]) -> Arrays:
        """Check samples of one shape, ``[samples, ...]``, and convert them to the model's dtypes."""

        def where(row: int) -> str:
            return f"sample {places[row]} of {self.name}"

        needed = [value.name for value in self.inputs if value.name not in _OPTIONAL]
        if missing := [name for name in needed if name not in rows]:
            raise missing_inputs(where(0), held, missing)
        first = rows[needed[0]]
        found: Arrays = {}
        for value in self.inputs:
            given = rows.get(value.name)
            if given is None:
                given = np.full(first.shape[:2], _OPTIONAL[value.name], value.dtype)
            elif value.name in _OPTIONAL and given.shape != first.shape[:2]:
                raise UsageError(
                    f"{where(0)}: {value.name} has the shape {list(given.shape[1:])}, {needed[0]} "
                    f"{list(first.shape[1:])}",
                    "give both the same length",
                )
            found[value.name] = check_rows(value, self._padded(value, given), where, raw_pixels=self._raw_pixels)
        if LABELS in rows:
            found[LABELS] = label_rows(rows[LABELS], where(0))
        return found

    def _padded(self, value: GraphInput, rows: np.ndarray) -> np.ndarray:
        """Pad sequences to the fixed length of an input, if a mask marks the padding."""
        length = value.shape[-1]
        sequences = rows.ndim == len(value.shape) == 2 and rows.dtype.kind in "fiub"
        if not (self._masked and sequences and isinstance(length, int)):
            return rows
        return pad(list(rows), value.fill, length, left=value.pad_left) if rows.shape[1] < length else rows


def held_out(samples: int) -> NDArray[np.bool_]:
    """Choose the held-out samples: one in each group of five, at a position that changes from group to group.

    A fixed position could hold out a single class if classes alternate, as in image folders.

    Args:
        samples: Number of samples.
    """
    blocks = np.arange(samples // HOLD_OUT_EVERY, dtype=np.uint64)
    places = ((blocks + np.uint64(1)) * np.uint64(_GOLDEN_RATIO) % np.uint64(2**32)) * np.uint64(HOLD_OUT_EVERY)
    marks = np.zeros(samples, bool)
    marks[blocks * np.uint64(HOLD_OUT_EVERY) + (places >> np.uint64(32))] = True
    return marks


def spread(total: int, wanted: int) -> NDArray[np.int64]:
    """Indices of ``wanted`` samples at most, spread evenly over ``total``."""
    return np.unique(np.arange(wanted, dtype=np.int64) * total // wanted) if total else np.empty(0, np.int64)


def add_to_digest(digest: hashlib._Hash, sample: Mapping[str, np.ndarray]) -> None:
    """Update a :mod:`hashlib` hash with a sample, independent of the order of its entries."""
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        digest.update(f"{name}:{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())


def _as_array(name: str, value: object, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, GPU tensors, tensors with gradients
        raise UsageError(f"{where}: {name} is not an array: {error}") from error
