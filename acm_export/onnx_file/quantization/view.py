"""A view of a graph: which node computes a value, which nodes read it, and the weights, read one at a time."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from acm_export.onnx_file.model_file import tensor_values

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from onnx import NodeProto

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


class GraphView:
    """Producers, readers, weights and ranks of a graph; the graph must not change while the view is used.

    Args:
        model: Model whose external data, if any, is in ``folder``; it has a value_info for every value, as acm-export
            writes it.
        folder: Folder of the external data.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self._folder = folder
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)

    def readers(self, value: str) -> list[NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(value, [])

    def producer(self, value: str) -> NodeProto | None:
        """The node that computes a value; None for inputs and initializers."""
        return self._producers.get(value)

    def is_weight(self, value: str) -> bool:
        """Whether a value is an initializer."""
        return value in self._weights

    def is_float_weight(self, value: str, rank: int) -> bool:
        """Whether a value is a float32 or float16 initializer of this rank."""
        tensor = self._weights.get(value)
        return tensor is not None and tensor.data_type in _FLOATS and len(tensor.dims) == rank

    def shape(self, weight: str) -> tuple[int, ...]:
        """Shape of an initializer."""
        return tuple(self._weights[weight].dims)

    def element_type(self, value: str) -> int:
        """Element type of an initializer or of a value, as in ``TensorProto.DataType``; 0 if unknown."""
        if value in self._weights:
            return int(self._weights[value].data_type)
        known = self._values.get(value)
        return 0 if known is None else int(known.type.tensor_type.elem_type)

    def rank(self, value: str) -> int | None:
        """Number of dimensions of a value; None if the file does not have its shape."""
        known = self._values.get(value)
        if known is None or not known.type.tensor_type.HasField("shape"):
            return None
        return len(known.type.tensor_type.shape.dim)

    def read(self, weight: str) -> np.ndarray:
        """Value of an initializer in float32, or in its own dtype if that is not a float."""
        values = tensor_values(self._weights[weight], self._folder)
        return values.astype(np.float32) if values.dtype.kind == "f" else values
