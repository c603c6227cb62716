"""Samples from arrays with one row per sample, and from sequences of mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.data.checks import missing_inputs
from acm_export.data.collate import CLASS, LABELS
from acm_export.data.user_function import failed

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.data.columns import Columns


class ArrayRows:
    """Arrays with one row per sample.

    Args:
        name: Name for errors and reports.
        arrays: Arrays to use, by name.
        held: Names of all arrays of the file.
        needed: Names of the model's inputs.
    """

    def __init__(self, name: str, arrays: Arrays, held: Collection[str], needed: Collection[str]) -> None:
        if held and not arrays.keys() & set(needed):
            raise missing_inputs(name, held, needed)
        if LABELS not in arrays and CLASS in arrays and arrays[CLASS].dtype.kind in "iuf":
            arrays = {**arrays, LABELS: arrays[CLASS]}
        lengths = {key: len(value) if value.ndim else 0 for key, value in arrays.items()}
        if len(set(lengths.values())) > 1:
            hint = "give one row for each sample in every array"
            raise UsageError(f"{name}: the arrays have different lengths: {lengths}", hint)
        self.name, self.labels = name, arrays.get(LABELS)
        self._arrays, self._held, self._length = arrays, held, next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Mapping[str, object]:
        return dict.fromkeys(self._held) | {name: array[index] for name, array in self._arrays.items()}

    def rows(self, indices: NDArray[np.int64]) -> Arrays:
        """Several samples at once."""
        return {name: array[indices] for name, array in self._arrays.items()}


class SequenceRows:
    """A Hugging Face or PyTorch dataset, or a list of mappings."""

    def __init__(self, name: str, items: Any, columns: Columns) -> None:
        self.name, self._items, self._columns = name, items, columns

    def __len__(self) -> int:
        try:
            return len(self._items)
        except Exception as error:  # the user's own code
            raise failed(f"{self.name} has no length", error) from error

    def __getitem__(self, index: int) -> Mapping[str, object]:
        try:
            sample = self._items[index]
        except Exception as error:  # runs the user's transforms, and decoders
            raise decoding_failed(f"{self.name} failed at sample {index}", error) from error
        if not isinstance(sample, Mapping):
            raise UsageError(
                f"sample {index} of {self.name} is {type(sample).__name__}; expected a mapping from the names of "
                "inputs to arrays",
                f"for example: {{{', '.join(f'{name!r}: array' for name in self._columns.names)}}}",
            )
        return self._columns({str(key): value for key, value in sample.items()}, f"sample {index} of {self.name}")


def decoding_failed(what: str, error: BaseException) -> UsageError:
    """The error for a user's data that raised an exception while they were read.

    Args:
        what: What failed.
        error: What was raised.
    """
    if any(decoder in str(error) for decoder in ("torchcodec", "librosa")):  # missing, or broken
        hint = 'return dataset.cast_column("audio", datasets.Audio(decode=False)): soundfile then decodes it'
        return failed(what, error, hint)
    return failed(what, error)
