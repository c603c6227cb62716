"""Inputs of a model, and batches of samples for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

Arrays = dict[str, np.ndarray]

_PASS_ON = ("Cast", "Identity")


@dataclass(frozen=True)
class GraphInput:
    """An input of a model.

    Args:
        name: Name of the input.
        shape: Size of each dimension, the batch first; dynamic dimensions have a name.
        dtype: Type of its elements.
        below: Exclusive bound of the values of an integer input, such as the size of the vocabulary; None if unknown.
        lengths: Smallest and largest size of dynamic dimensions, by name; None means no limit.
        fill: Value that pads sequences.
        pad_left: Whether sequences are padded at the start.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype
    below: int | None = None
    lengths: Mapping[str, tuple[int, int | None]] = field(default_factory=dict, compare=False)
    fill: int = field(default=0, compare=False)
    pad_left: bool = field(default=False, compare=False)

    @property
    def is_image(self) -> bool:
        """Whether it takes images ``[batch, 1 or 3, height, width]`` as floats."""
        image = len(self.shape) == 4 and (self.name == "pixel_values" or self.shape[1] in (1, 3))
        return image and self.dtype.kind == "f"


@dataclass(frozen=True)
class Batch:
    """Samples of one batch.

    Args:
        feeds: One array for each input of the model, ``[samples, ...]``.
        labels: ``[samples]`` or ``[samples, labels]``; None without labels.
    """

    feeds: Arrays
    labels: np.ndarray | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.feeds.values())))

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """Labels that are the number of one class per sample, ``[samples]``; None for labels of another kind."""
        labels = self.labels
        return labels if labels is not None and labels.ndim == 1 and labels.dtype.kind == "i" else None

    def rows(self, chosen: slice) -> Batch:
        """A slice of the samples."""
        labels = None if self.labels is None else self.labels[chosen]
        return Batch({name: array[chosen] for name, array in self.feeds.items()}, labels)

    def named(self) -> Arrays:
        """Feeds and labels by name."""
        return self.feeds if self.labels is None else {**self.feeds, "labels": self.labels}


def graph_inputs(model: onnx.ModelProto, names: tuple[str, ...]) -> tuple[GraphInput, ...]:
    """The inputs of an ONNX model that have these names.

    Args:
        model: The model; inputs that index an embedding get the number of its rows as their bound, a mask 2.
        names: Names of the inputs of interest.
    """
    found = []
    for value in model.graph.input:
        if value.name in names:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_param or dim.dim_value or "?" for dim in tensor.shape.dim)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            below = None
            if dtype.kind in "iu":
                below = 2 if value.name == MASK else _embedding_rows(model.graph, value.name)
            found.append(GraphInput(value.name, shape, dtype, below))
    return tuple(found)


def _embedding_rows(graph: onnx.GraphProto, name: str) -> int | None:
    """Rows of the smallest table that an input indexes, or None."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    same = {name}
    rows: list[int] = []
    for node in graph.node:  # in topological order
        if node.op_type in _PASS_ON and node.input[0] in same:
            same.update(node.output)
        elif node.op_type in _PASS_ON and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in same and _axis(node.attribute) == 0:
            rows += tables.get(node.input[0], ())[:1]
    return min(rows, default=None)


def _axis(attributes: Iterable[onnx.AttributeProto]) -> int:
    return next((attribute.i for attribute in attributes if attribute.name == "axis"), 0)


def draw(rng: np.random.Generator, value: GraphInput, shape: Sequence[int]) -> np.ndarray:
    """Draw a random input, used without real data: standard normal floats, ones for integers and booleans."""
    if value.dtype.kind == "f":
        return rng.standard_normal(shape).astype(value.dtype)
    return np.ones(shape, value.dtype)
