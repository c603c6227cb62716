"""Samples of different lengths become one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LABELS = "labels"
NO_LABEL = -100
"""What PyTorch's losses leave out; it stands where a sample has fewer labels than others."""

_MASK = "attention_mask"
_OPTIONAL = {_MASK: 1, "token_type_ids": 0}
"""Inputs that a sample may lack, and what stands for them."""


class Collate:
    """Stacks samples; those of different lengths are padded at the end and get a mask where the model takes one.

    Args:
        names: Parameters of the model's ``forward`` that are of use; other entries of a sample are left out.
        dtypes: Of those, as numpy's names.
        takes_mask: Whether the model takes an ``attention_mask``.
        check: Raises where a batch does not fit what the model is for.
    """

    def __init__(
        self,
        names: Sequence[str],
        dtypes: Mapping[str, str],
        *,
        takes_mask: bool,
        check: Callable[[dict[str, torch.Tensor]], None],
    ) -> None:
        self.names, self._dtypes, self.takes_mask, self._check = tuple(names), dict(dtypes), takes_mask, check

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Arrays by name, without a batch dimension, to tensors with one.

        Raises:
            UsageError: A sample lacks an input, or samples differ in more than their length.
        """
        first, *others = self.names
        arrays = [self._array(first, sample) for sample in samples]
        sizes = sorted({len(array) for array in arrays if array.ndim == 1})
        if len(sizes) > 1 and not self.takes_mask:
            raise UsageError(
                f"{first} has samples of {sizes[0]} to {sizes[-1]} values, and the model takes no mask for the padding",
                "give samples of one length, or take one sample a step: --batch 1",
            )
        batch = {first: torch.from_numpy(_stack(first, arrays, 0))}
        for name in others:
            if name not in _OPTIONAL or any(name in sample for sample in samples):
                given = [self._given(name, sample, array) for sample, array in zip(samples, arrays, strict=True)]
                batch[name] = torch.from_numpy(_stack(name, given, 0))
        if self.takes_mask and _MASK not in batch and sizes:
            lengths = torch.tensor([len(array) for array in arrays])
            batch[_MASK] = (torch.arange(sizes[-1]) < lengths.unsqueeze(1)).long()
        if all(LABELS in sample for sample in samples):
            labels = [_as_array(LABELS, sample[LABELS]) for sample in samples]
            if any(array.dtype.kind not in "iuf" for array in labels):
                raise UsageError(f"labels are {labels[0].dtype}; expected numbers")
            kind = np.float32 if labels[0].dtype.kind == "f" else np.int64
            batch[LABELS] = torch.from_numpy(_stack(LABELS, [array.astype(kind) for array in labels], NO_LABEL))
        self._check(batch)
        return batch

    def _given(self, name: str, sample: Mapping[str, Any], first: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An input beside the first one; what an optional one means where the sample has none."""
        if name in _OPTIONAL and name not in sample:
            return np.full(first.shape, _OPTIONAL[name], self._dtypes[name])
        array = self._array(name, sample)
        if name in _OPTIONAL and array.shape != first.shape:
            raise UsageError(
                f"{name} of a sample has the shape {list(array.shape)}, {self.names[0]} {list(first.shape)}"
            )
        return array

    def _array(self, name: str, sample: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        if name not in sample:
            raise UsageError(
                f"a sample holds {', '.join(sample) or 'nothing'}; the model takes {', '.join(self.names)}",
                "name the entries of a sample as the parameters of the model's forward",
            )
        array = _as_array(name, sample[name])
        if array.dtype.kind not in "fiub":
            raise UsageError(f"{name} of a sample is {array.dtype}; expected numbers")
        return array.astype(self._dtypes[name])


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model takes of a batch: all but the labels."""
    return {name: value for name, value in batch.items() if name != LABELS}


def _as_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # uneven lists; tensors of a GPU, or with gradients
        raise UsageError(f"{name} of a sample is no array: {error}") from error


def _stack(name: str, arrays: Sequence[np.ndarray[Any, Any]], fill: int) -> np.ndarray[Any, Any]:
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    if any(array.ndim != 1 for array in arrays):
        raise UsageError(f"{name} has samples of shapes {sorted(shapes)[:4]}; only sequences of numbers are padded")
    padded = np.full((len(arrays), max(len(array) for array in arrays)), fill, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded
