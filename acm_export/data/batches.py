"""Calibration data as batches of feeds: streamed in every pass, checked against the model's inputs, split in two."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import helper

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import onnx

LABELS = "labels"
HOLD_OUT_EVERY = 5
"""Every fifth sample is held out: 20%, spread evenly, so that data sorted by class are split evenly too."""

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class GraphInput:
    """An input of a model: shape with names for dynamic dimensions, and numpy dtype."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Batch:
    """Samples: an array for each input, and their labels ``[samples]`` where there are any."""

    feeds: Arrays
    labels: np.ndarray[Any, Any] | None = None

    @property
    def samples(self) -> int:
        """Length of the leading axis."""
        return len(next(iter(self.feeds.values())))

    def rows(self, chosen: np.ndarray[Any, Any] | slice) -> Batch:
        """Some of the samples."""
        labels = None if self.labels is None else self.labels[chosen]
        return Batch({name: array[chosen] for name, array in self.feeds.items()}, labels)


class DataSource(Protocol):
    """Where batches come from; every pass gives the same ones."""

    name: str

    def batches(self, size: int, names: Collection[str]) -> Iterator[Arrays]:
        """Arrays by name, ``size`` samples at a time where it can choose.

        Args:
            size: Samples of a batch.
            names: Of the arrays that are of use.
        """


@dataclass(frozen=True)
class Survey:
    """What one look through the data found.

    Args:
        samples: That make the table.
        held_out: That check it.
        batches: Of the former.
        held_out_batches: Of the latter.
        unit: Samples that are held out together: the model's batch where it is fixed, or 1.
        labelled: Whether there are labels.
        sha256: Of all arrays.
    """

    samples: int
    held_out: int
    batches: int
    held_out_batches: int
    unit: int
    labelled: bool
    sha256: str


class CalibrationData:
    """A source, held against a model.

    Args:
        source: The data.
        inputs: Of the model.
        batch_size: Samples at a time; a model with a fixed batch decides itself.
        limit: Samples to use, at most.
    """

    def __init__(
        self, source: DataSource, inputs: tuple[GraphInput, ...], *, batch_size: int = 32, limit: int | None = None
    ) -> None:
        self._source, self._inputs, self._limit = source, inputs, limit
        fixed = [value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], int)]
        self._fixed = int(fixed[0]) if fixed else None
        self._size = self._fixed or batch_size

    @property
    def name(self) -> str:
        """For people."""
        return self._source.name

    def survey(self) -> Survey:
        """Look through all data, checking them.

        Raises:
            UsageError: There are none, or they do not fit the model.
        """
        digests = {name: hashlib.sha256() for name in self._names()}
        samples, batches = [0, 0], [0, 0]
        labelled = False
        for batch, held_out in self._marked():
            labelled |= batch.labels is not None
            for part in (0, 1):
                if size := int((held_out == bool(part)).sum()):
                    samples[part] += size
                    batches[part] += 1
            for name, array in [*batch.feeds.items(), *([(LABELS, batch.labels)] if batch.labels is not None else [])]:
                digests[name].update(np.ascontiguousarray(array).data)
        if not any(samples):
            fixed = f" of {self._fixed}, the batch that the model takes" if self._fixed else ""
            raise UsageError(f"{self.name} has no samples{fixed}")
        whole = hashlib.sha256("".join(f"{k}:{v.hexdigest()};" for k, v in sorted(digests.items())).encode())
        return Survey(samples[0], samples[1], batches[0], batches[1], self._fixed or 1, labelled, whole.hexdigest())

    def calibration(self) -> Iterator[Batch]:
        """Four fifths of the samples."""
        return self._part(held_out=False)

    def held_out(self) -> Iterator[Batch]:
        """Every fifth sample, or batch where the model's batch is fixed."""
        return self._part(held_out=True)

    def probe(self, samples: int, survey: Survey) -> Iterator[Batch]:
        """About so many of the calibration samples, spread evenly; whole batches where the model's batch is fixed."""
        unit = self._fixed or 1
        wanted, total = max(samples // unit, 1), survey.samples // unit
        position = 0
        for batch in self.calibration():
            places = position + np.arange(batch.samples // unit)
            chosen = (places + 1) * wanted // total > places * wanted // total
            position += places.size
            if chosen.any():
                yield batch.rows(np.flatnonzero(np.repeat(chosen, unit)))

    def _part(self, *, held_out: bool) -> Iterator[Batch]:
        for batch, marks in self._marked():
            if (marks == held_out).any():
                yield batch.rows(np.flatnonzero(marks == held_out))

    def _marked(self) -> Iterator[tuple[Batch, np.ndarray[Any, Any]]]:
        """Batches, and which of their samples are held out."""
        position = 0
        for batch in self._batches():
            unit = self._fixed or 1
            places = position + np.arange(batch.samples // unit)
            position += places.size
            yield batch, np.repeat(places % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1, unit)

    def _names(self) -> list[str]:
        return [*(value.name for value in self._inputs), LABELS]

    def _batches(self) -> Iterator[Batch]:
        left = self._limit
        for arrays in self._source.batches(self._size, self._names()):
            batch = check_batch(arrays, self._inputs, self.name)
            if left is not None:
                batch = batch.rows(slice(0, left))
                left -= batch.samples
            if batch.samples and (self._fixed is None or batch.samples == self._fixed):
                yield batch
            if left == 0:
                return


def graph_inputs(model: onnx.ModelProto, names: tuple[str, ...]) -> tuple[GraphInput, ...]:
    """The inputs of a model that bear these names."""
    found = []
    for value in model.graph.input:
        if value.name in names:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_param or dim.dim_value or "?" for dim in tensor.shape.dim)
            found.append(GraphInput(value.name, shape, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return tuple(found)


def draw(rng: np.random.Generator, value: GraphInput, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """A random input where there are no real ones: standard normal floats, ones for whole numbers and booleans."""
    if value.dtype.kind == "f":
        return rng.standard_normal(shape).astype(value.dtype)
    return np.ones(shape, value.dtype)


def check_batch(arrays: Mapping[str, Any], inputs: tuple[GraphInput, ...], where: str) -> Batch:
    """Hold arrays against the inputs of a model.

    Args:
        arrays: By name; what the model does not take is left out.
        inputs: Of the model.
        where: The file or function, for errors.

    Returns:
        The batch in the dtypes that the model takes.

    Raises:
        UsageError: An array is missing, or its shape, dtype or length does not fit.
    """
    if missing := [value.name for value in inputs if value.name not in arrays]:
        raise UsageError(missing_arrays(where, arrays, missing), "name the arrays as the model's inputs")
    feeds = {value.name: _checked(value, np.asarray(arrays[value.name]), where) for value in inputs}
    labels = np.asarray(arrays[LABELS]) if LABELS in arrays else None
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise UsageError(
            f"{where}: {LABELS} is {_kind(labels)}, expected whole numbers [samples]",
            f"leave {LABELS} out: they only add an accuracy to the report",
        )
    lengths = {
        name: len(array) for name, array in [*feeds.items(), *([(LABELS, labels)] if labels is not None else [])]
    }
    if len(set(lengths.values())) > 1:
        raise UsageError(f"{where}: the arrays have different lengths: {lengths}")
    return Batch(feeds, labels)


def _checked(value: GraphInput, array: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    expected = f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    wanted = value.shape[1:]
    fits = array.ndim == len(value.shape) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape[1:], wanted, strict=True)
    )
    if not fits:
        raise UsageError(f"{where}: {value.name} is {_kind(array)}, the model takes {expected}")
    if array.dtype.kind not in ("f" if value.dtype.kind == "f" else "iub"):
        raise UsageError(
            f"{where}: {value.name} is {_kind(array)}, the model takes {expected}",
            "give what the model was trained on: pixels normalised, not 0..255" if value.dtype.kind == "f" else None,
        )
    with np.errstate(over="ignore"):
        fed = np.ascontiguousarray(array, value.dtype)
    if value.dtype.kind == "f" and not np.isfinite(fed).all():
        raise UsageError(f"{where}: {value.name} holds NaN or infinity", "leave those samples out")
    if value.dtype.kind != "f" and not np.array_equal(fed, array):
        raise UsageError(f"{where}: {value.name} holds numbers beyond {value.dtype}, which the model takes")
    return fed


def missing_arrays(where: str, held: Iterable[str], missing: Iterable[str]) -> str:
    """What to say where arrays are missing."""
    return f"{where} holds {', '.join(held) or 'nothing'}; the model takes {', '.join(missing)}"


def _kind(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"
