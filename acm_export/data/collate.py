"""Stack samples of different lengths into one batch, with padding that is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import Batch
from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from acm_export.data.batches import GraphInput

Value = TypeVar("Value")

LABELS = "labels"
CLASS = "label"
"""Name of the labels in datasets of Hugging Face, used where there is no :data:`LABELS`."""

DECODER_IDS = "decoder_input_ids"
"""Tokens of a causal decoder: padding behind them changes nothing in front of it, so that it needs no mask."""

NO_LABEL = -100
"""Label that PyTorch's losses ignore; pads the labels of samples that have fewer than others."""


def collate(samples: Sequence[Mapping[str, np.ndarray]], inputs: Sequence[GraphInput]) -> Batch:
    """Stack samples; sequences are padded as their input says, by default with zeros at the end.

    Args:
        samples: Arrays without a batch axis, as :class:`Dataset` gives them; at least one.
        inputs: Inputs of the model.

    Raises:
        UsageError: Samples differ in more than their length, or in their length although the model takes no mask.
    """
    masked = any(value.name == MASK for value in inputs)
    feeds = {value.name: _stack(value, [sample[value.name] for sample in samples], masked) for value in inputs}
    labels = [sample[LABELS] for sample in samples if LABELS in sample]
    return Batch(feeds, _stack_labels(labels) if len(labels) == len(samples) else None)


def model_inputs(batch: Mapping[str, Value]) -> dict[str, Value]:
    """The model inputs in a batch: everything except the labels."""
    return {name: value for name, value in batch.items() if name != LABELS}


def _stack(value: GraphInput, arrays: Sequence[np.ndarray], masked: bool) -> np.ndarray:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) == 1:
        return np.stack(arrays)
    if len({shape[1:] for shape in shapes}) > 1 or isinstance(value.shape[1], int):
        hint = "give images of equal size, or processor settings that crop them" if value.is_image else None
        raise UsageError(
            f"{value.name} has samples of the shapes {list(shapes[0])} and {list(shapes[-1])}; only the "
            "length of a sequence may differ",
            hint,
        )
    if not masked and value.name != DECODER_IDS:
        raise UsageError(
            f"{value.name} has samples of the lengths {shapes[0][0]} to {shapes[-1][0]}, and the model takes no "
            "attention_mask that would mark padding",
            "give samples of equal length, or one sample at a time: --batch 1",
        )
    return pad(arrays, value.fill, left=value.pad_left)


def _stack_labels(labels: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {array.shape for array in labels}
    if len(shapes) == 1:
        return np.stack(labels)
    if any(array.ndim != 1 for array in labels):
        raise UsageError(f"labels have the shapes {', '.join(str(list(s)) for s in sorted(shapes)[:4])}")
    return pad(labels, NO_LABEL)


def pad(arrays: Sequence[np.ndarray], fill: int, length: int | None = None, *, left: bool = False) -> np.ndarray:
    """Stack sequences of different lengths.

    Args:
        arrays: Arrays that differ only in their first dimension.
        fill: Value of the padding.
        length: Length of the result; by default that of the longest sequence.
        left: Whether the padding comes before a sequence.

    Returns:
        ``[arrays, length, ...]``.
    """
    shape = (len(arrays), length or max(map(len, arrays)), *arrays[0].shape[1:])
    padded = np.full(shape, fill, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[len(row) - len(array) if left else 0 :][: len(array)] = array
    return padded
