"""The view of a graph that rewrite rules use, and the nodes and constants that they add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file.model_file import tensor_values

if TYPE_CHECKING:
    from typing import Any

    from onnx import GraphProto, NodeProto

TARGET = "tensorrt-8"


def refusal(node: NodeProto, reason: str) -> ExportError:
    """An error that names the node that the target does not support, and the reason."""
    return ExportError(
        f"{node.op_type} ({node.name or node.output[0]}) cannot be written for the target {TARGET}: {reason}",
        "change the model, or use the target tensorrt with TensorRT 10.3 or later",
    )


class Graph:
    """Types and constants of a graph, and the constants that rules add; the graph itself is not changed.

    Args:
        graph: Graph with a value_info for every value but casts, as acm-export writes it; weights need not be loaded.
        folder: Folder of the external data, of which only constants that a rule needs are read; None to read none.
    """

    def __init__(self, graph: GraphProto, folder: Path | None = None) -> None:
        self._folder = folder
        self.added: list[TensorProto] = []
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._constants = {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self._casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
        self._values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= self._initializers.keys() | self._values.keys()
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def element_type(self, node: NodeProto, name: str) -> int:
        """Element type of an input of ``node``, as in ``TensorProto.DataType``."""
        if element := self.known_type(name):
            return element
        raise refusal(node, f"the file does not have the type of {name}")

    def known_type(self, name: str) -> int | None:
        """Element type of a value, as in ``TensorProto.DataType``; None if the file does not have it."""
        if name in self._initializers:
            return int(self._initializers[name].data_type)
        if name in self._values and (element := self._values[name].type.tensor_type.elem_type):
            return int(element)
        return int(attributes_of(self._casts[name])["to"]) if name in self._casts else None

    def shape(self, node: NodeProto, name: str) -> list[int | None]:
        """Shape of an input of ``node``; None for dynamic dimensions."""
        if name in self._initializers:
            return list(self._initializers[name].dims)
        if name in self._values and self._values[name].type.tensor_type.HasField("shape"):
            dims = self._values[name].type.tensor_type.shape.dim
            return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        if name in self._casts:
            return self.shape(node, self._casts[name].input[0])
        raise refusal(node, f"the file does not have the shape of {name}")

    def known(self, name: str) -> np.ndarray | None:
        """Value of a constant; None for a computed value, or one in another file whose folder is not given."""
        tensor = self._initializers.get(name) or self._constants.get(name)
        if tensor is None or (tensor.data_location == TensorProto.EXTERNAL and self._folder is None):
            return None
        return tensor_values(tensor, self._folder or Path())

    def constant(self, value: np.ndarray) -> str:
        """Name of an initializer with this value; equal values share one."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = self.fresh(f"lowered_{len(self._names)}")
            self.added.append(numpy_helper.from_array(value, self._names[key]))
        return self._names[key]

    def indices(self, *values: int) -> str:
        """Name of an int64 initializer ``[len(values)]``."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float, element_type: int) -> str:
        """Name of a scalar initializer of a floating-point type."""
        return self.constant(np.array(value, helper.tensor_dtype_to_np_dtype(element_type)))

    def fresh(self, name: str) -> str:
        """``name``, with a number appended if the graph already uses it."""
        unique, number = name, 1
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique


class Steps:
    """The nodes that replace one node, in order.

    Args:
        node: Node to replace; new values and nodes are named after its first output.
        graph: Graph of the node.
    """

    def __init__(self, node: NodeProto, graph: Graph) -> None:
        self.nodes: list[NodeProto] = []
        self._node, self._graph = node, graph

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one new output; returns the name of the output."""
        output = self._graph.fresh(f"{self._node.output[0]}/{op_type}")
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def finish(self, op_type: str, *inputs: str, **attributes: Any) -> list[NodeProto]:
        """Append the last node, with the outputs and name of the original; returns all nodes."""
        node = helper.make_node(op_type, inputs, self._node.output, name=self._node.name, **attributes)
        self.nodes.append(node)
        return self.nodes


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Attributes by name, as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def without(node: NodeProto, *names: str) -> NodeProto:
    """A copy of a node without the named attributes."""
    copy = type(node)()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name not in names)
    return copy
