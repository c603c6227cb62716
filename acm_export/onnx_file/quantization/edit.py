"""Edit a graph: weights and nodes to replace, applied at once, with a value_info for every new value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

if TYPE_CHECKING:
    import onnx
    from onnx import NodeProto


class GraphEdit:
    """Collects changes to a model; :meth:`apply` makes them.

    Args:
        model: Model to change.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._graph = graph
        self._nodes: dict[str, list[NodeProto]] = {}
        self._weights: dict[str, TensorProto] = {}
        self._added: list[TensorProto] = []
        self._values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._constants: dict[str, str] = {}
        self._described: list[ValueInfoProto] = []
        self._taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
        self._taken |= self._values.keys() | {tensor.name for tensor in graph.initializer}

    def fresh(self, name: str) -> str:
        """``name``, with a number appended if the graph already uses it."""
        unique, number = name, 1
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique

    def weight(self, name: str, values: np.ndarray | np.generic, element: int | None = None) -> str:
        """Add an initializer, by default in the dtype of its values; returns its name."""
        unique = self.fresh(name)
        self._added.append(_tensor(unique, values, element))
        return unique

    def constant(self, name: str, values: np.ndarray | np.generic) -> str:
        """Add an initializer that the whole graph shares; returns its name."""
        if name not in self._constants:
            self._constants[name] = self.weight(name, np.asarray(values))
        return self._constants[name]

    def replace_weight(self, name: str, values: np.ndarray, element: int | None = None) -> None:
        """Give an initializer another value."""
        self._weights[name] = _tensor(name, values, element)

    def replace(self, node: NodeProto, nodes: list[NodeProto]) -> None:
        """Put nodes in the place of a node."""
        self._nodes[node.output[0]] = nodes

    def describe(self, value: str, like: str, *, element: int | None = None, last: int | None = None) -> None:
        """Write the type and shape of a new value: those of another, with its own element type or last dimension."""
        known = self._values.get(like)
        if known is None:
            return
        described = ValueInfoProto()
        described.CopyFrom(known)
        described.name = value
        if element is not None:
            described.type.tensor_type.elem_type = element
        if last is not None and described.type.tensor_type.HasField("shape"):
            described.type.tensor_type.shape.dim[-1].Clear()
            described.type.tensor_type.shape.dim[-1].dim_value = last
        self._values[value] = described
        self._described.append(described)

    def describe_weight(self, value: str, shape: tuple[int, ...], element: int) -> None:
        """Write the type and shape of a new value that is computed from weights."""
        self._described.append(helper.make_tensor_value_info(value, element, shape))

    def apply(self) -> None:
        """Make the changes, and remove initializers that no node reads any more and types that no longer hold."""
        nodes = [new for node in self._graph.node for new in self._nodes.get(node.output[0], [node])]
        before = {name for node in self._graph.node for name in node.input}
        after = {name for node in nodes for name in node.input} | {value.name for value in self._graph.output}
        kept = list(map(_copy, nodes))
        del self._graph.node[:]
        self._graph.node.extend(kept)
        changed = (before - after) | self._weights.keys()
        types = [value for value in self._graph.value_info if value.name not in changed]
        del self._graph.value_info[:]
        self._graph.value_info.extend(types)
        for index in reversed(range(len(self._graph.initializer))):
            tensor = self._graph.initializer[index]
            if tensor.name in before - after:
                del self._graph.initializer[index]
            elif tensor.name in self._weights:
                tensor.CopyFrom(self._weights.pop(tensor.name))
        self._graph.initializer.extend(self._added)
        self._graph.value_info.extend(self._described)


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _copy(node: NodeProto) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _tensor(name: str, values: np.ndarray | np.generic, element: int | None) -> TensorProto:
    if element is not None:
        values = values.astype(helper.tensor_dtype_to_np_dtype(element))
    return numpy_helper.from_array(np.ascontiguousarray(values), name)
