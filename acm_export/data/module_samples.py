"""Samples for any module: its inputs are those parameters of ``forward`` for which the samples have values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import GraphInput
from acm_export.data.collate import CLASS, LABELS
from acm_export.data.dataset import spread
from acm_export.data.npz import open_npz
from acm_export.data.user_function import import_function

if TYPE_CHECKING:
    from acm_export.data.open_data import Data

_LOOKED_AT = 64
"""Samples whose shapes decide which dimensions are dynamic."""

_HINT = "give mappings by the names of forward's parameters, or tuples in their order with one more value for the label"


def module_samples(data: Data, parameters: Sequence[str], required: Sequence[str]) -> tuple[Data, list[GraphInput]]:
    """Open data for a module, and describe the inputs that it has.

    Args:
        data: A mapping of arrays or tensors with one row per sample, samples by index, an iterable of samples, an
            ``.npz`` file, or ``module:function``. A sample is a mapping by the names of the parameters, or a tuple with
            the required parameters in order and, optionally, one more value for the label.
        parameters: Parameters of ``forward``, in order.
        required: Those without a default.

    Returns:
        The data in a form that :func:`acm_export.data.open_data.open_data` takes, and the inputs. A dimension in which
        samples differ is dynamic.

    Raises:
        UsageError: The data cannot be read, is empty, or lacks a parameter that has no default.
    """
    content = _content(data, parameters)
    if isinstance(content, Mapping):
        content = {str(name): np.asarray(value) for name, value in content.items()}
        looked_at = [{name: value[0] for name, value in content.items() if value.ndim and len(value)}]
    else:
        if content and not isinstance(content[0], Mapping):
            content = _Tuples(content, required or parameters[:1])
        looked_at = [dict(content[int(index)]) for index in spread(len(content), _LOOKED_AT)]
    if not looked_at or not looked_at[0]:
        raise UsageError("the data has no samples", "give at least one sample")
    held = looked_at[0].keys() - {LABELS, CLASS}
    missing = [name for name in required if name not in held]
    if missing or not held & set(parameters):
        raise UsageError(
            f"the samples have {', '.join(sorted(held)) or 'only labels'}; "
            f"forward needs {', '.join(missing or parameters)}",
            _HINT,
        )
    return content, [_input(name, looked_at) for name in parameters if name in held]


class _Tuples:
    """A dataset of tuples or single values as mappings.

    Args:
        items: The dataset.
        names: Names of the values; one more value is the label.
    """

    def __init__(self, items: Any, names: Sequence[str]) -> None:
        self._items, self._names = items, tuple(names)
        self.name = f"the {type(items).__name__}"

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, object]:
        item = self._items[index]
        values = item if isinstance(item, (tuple, list)) else (item,)
        names = (*self._names, LABELS)[: len(values)]
        if len(values) not in (len(self._names), len(self._names) + 1):
            raise UsageError(
                f"sample {index} of {self.name} has {len(values)} values; forward takes {', '.join(self._names)}", _HINT
            )
        return dict(zip(names, values, strict=True))


def _content(data: Data, parameters: Sequence[str]) -> Any:
    """A mapping of arrays, or samples by index."""
    if isinstance(data, (str, os.PathLike)):
        path, text = Path(data), os.fspath(data)
        if path.is_file():
            return open_npz(path, [*parameters, LABELS, CLASS])[0]
        if ":" not in text:
            raise UsageError(
                f"there is no file {text}", "data for a module is an .npz file, module:function, or samples"
            )
        return _content(import_function(text, "data")(), parameters)  # type: ignore[arg-type]
    if isinstance(data, Mapping) or (isinstance(data, Sized) and hasattr(data, "__getitem__")):
        return data
    if not isinstance(data, Iterable):
        raise UsageError(f"the data is {type(data).__name__}; expected samples", _HINT)
    return list(data)


def _input(name: str, samples: Sequence[Mapping[str, object]]) -> GraphInput:
    arrays = [np.asarray(sample[name]) for sample in samples if name in sample]
    sizes = [
        arrays[0].shape[axis] if len({array.shape[axis : axis + 1] for array in arrays}) == 1 else f"{name}_{axis + 1}"
        for axis in range(arrays[0].ndim)
    ]
    kinds = {"f": np.float32, "i": np.int64, "u": np.int64}
    return GraphInput(name, ("batch", *sizes), np.dtype(kinds.get(arrays[0].dtype.kind, arrays[0].dtype)))
