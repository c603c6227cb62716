"""Int8 inputs of QuantizedGatedLearners as flat int32 tensors: TensorRT 8 has no int8 constants for plugins.

An element holds four values, little endian, the last one padded with zeros. So the bytes stay the same, and weights
need not be loaded. The plugin for TensorRT 8 reads them as int8 again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import TensorProto, numpy_helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file.lowering.graph import refusal
from acm_export.op.quantized_signature import INT8_INPUTS, QUANTIZED_INPUTS, QUANTIZED_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from onnx import GraphProto, NodeProto

    from acm_export.onnx_file.manifest import LayerEntry

PER_ELEMENT = 4
"""Int8 values in an int32."""


def pack_int8(graph: GraphProto) -> Callable[[], None]:
    """Check that the int8 inputs of all nodes can be packed.

    Args:
        graph: Graph with any number of int8 layers; inputs that are packed already stay so.

    Returns:
        A function that packs them in place. It does not fail, so a caller can check other things before.

    Raises:
        ExportError: An input is not an initializer, or is stored in another file and does not fill its last int32.
    """
    names = {tensor.name for node, tensor in _int8_inputs(graph) if _needs_packing(node, tensor)}

    def pack() -> None:
        for tensor in graph.initializer:
            if tensor.name in names:
                size = packed_size(math.prod(tensor.dims))
                _replace(tensor, TensorProto.INT32, [size], PER_ELEMENT * size)
        _forget_types(graph, names)

    return pack


def unpack_int8(graph: GraphProto, layers: Iterable[LayerEntry]) -> None:
    """Turn packed inputs back into int8 in place, for targets other than tensorrt-8.

    Args:
        graph: Graph with a node for each layer; inputs that are int8 already stay so.
        layers: Layers of the manifest, which give the shapes.

    Raises:
        ExportError: The size of a packed input contradicts the manifest; the graph is unchanged.
    """
    shapes = {layer.name: int8_shapes(layer) for layer in layers}
    packed: dict[str, tuple[TensorProto, Sequence[int]]] = {}
    for node, tensor in _int8_inputs(graph):
        if tensor.data_type == TensorProto.INT32:
            shape = shapes[node.name][_input_name(node, tensor.name)]
            if list(tensor.dims) != [packed_size(math.prod(shape))]:
                raise ExportError(
                    f"{tensor.name} has shape {list(tensor.dims)}; {math.prod(shape)} int8 values of layer {node.name} "
                    f"need [{packed_size(math.prod(shape))}]",
                    "another tool changed the file; quantize the float file again",
                )
            packed[tensor.name] = tensor, shape
    for tensor, shape in packed.values():
        _replace(tensor, TensorProto.INT8, shape, math.prod(shape))
    _forget_types(graph, packed.keys())


def int8_shapes(layer: LayerEntry) -> dict[str, tuple[int, ...]]:
    """Shapes of the int8 inputs of a layer (docs/op.md)."""
    width = layer.num_learners * layer.hidden_dim
    return {"w1": (layer.model_dim, width), "h_zero": (layer.num_learners,), "w2": (width, layer.model_dim)}


def packed_size(size: int) -> int:
    """Number of int32 elements that hold ``size`` int8 values."""
    return -(-size // PER_ELEMENT)


def _int8_inputs(graph: GraphProto) -> Iterator[tuple[NodeProto, TensorProto]]:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == QUANTIZED_NAME:
            for name in INT8_INPUTS:
                value = node.input[QUANTIZED_INPUTS.index(name)]
                if value not in initializers:
                    raise refusal(node, f"its input {name} ({value}) is not an initializer")
                yield node, initializers[value]


def _input_name(node: NodeProto, value: str) -> str:
    return QUANTIZED_INPUTS[list(node.input).index(value)]


def _needs_packing(node: NodeProto, tensor: TensorProto) -> bool:
    if tensor.data_type == TensorProto.INT32:
        return False
    if tensor.data_location == TensorProto.EXTERNAL and math.prod(tensor.dims) % PER_ELEMENT:
        raise refusal(
            node, f"{tensor.name} has {math.prod(tensor.dims)} bytes in another file, not a multiple of {PER_ELEMENT}"
        )
    return True


def _replace(tensor: TensorProto, element_type: int, shape: Sequence[int], num_bytes: int) -> None:
    """Give a tensor another type and shape over the same bytes, cut or padded with zeros to ``num_bytes``."""
    if tensor.data_location != TensorProto.EXTERNAL:
        content = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("int32_data")
        tensor.raw_data = content[:num_bytes].ljust(num_bytes, b"\0")
    tensor.data_type = element_type
    del tensor.dims[:]
    tensor.dims.extend(shape)


def _forget_types(graph: GraphProto, names: Collection[str]) -> None:
    """Remove the types that the graph states for changed initializers; initializers carry their own."""
    kept = [value for value in graph.value_info if value.name not in names]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)
