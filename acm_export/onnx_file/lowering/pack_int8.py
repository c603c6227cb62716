"""The int8 tensors of QuantizedGatedLearners as TensorRT's plugin gets them: flat int32 tensors, weights transposed.

An int32 holds four values, little endian; the last one is padded with zeros. TensorRT 8 does not take int8 constants as
inputs of plugins, while int32 constants are plain data in every version. W1 and W2 are transposed, because the matrix
units of GPUs read int8 operands contiguous along the sum. The type also keeps the plugin from running a file whose
weights are in the order of docs/op.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file.model_file import tensor_values
from acm_export.op.quantized_signature import INT8_INPUTS, INT8_OPERATORS, OPERATORS, operator_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    from acm_export.onnx_file.manifest import LayerEntry

PER_ELEMENT = 4
"""Int8 values in an int32."""


def pack_int8(graph: GraphProto, folder: Path | None = None) -> Callable[[], None]:
    """Check that the int8 inputs of all nodes can be packed.

    Args:
        graph: Graph with any number of int8 layers; inputs that are packed already stay so.
        folder: Folder of the external data. Packed tensors are stored in the model.

    Returns:
        A function that packs them in place, so that a caller can check other things before.

    Raises:
        ExportError: An input is not an initializer, or is external data and ``folder`` is not given.
    """
    unpacked = {tensor.name: tensor for _, _, tensor in _int8_inputs(graph) if tensor.data_type == TensorProto.INT8}
    for tensor in unpacked.values():
        _check_stored(tensor, folder)

    def pack() -> None:
        for tensor in graph.initializer:
            if tensor.name in unpacked:
                values = tensor_values(tensor, folder or Path()).T
                size = packed_size(values.size)
                content = values.tobytes().ljust(PER_ELEMENT * size, b"\0")
                _replace(tensor, np.frombuffer(content, "<i4"))
        _forget_types(graph, unpacked)

    return pack


def unpack_int8(graph: GraphProto, layers: Iterable[LayerEntry], folder: Path | None = None) -> Callable[[], None]:
    """Check that packed inputs can become int8 again, for the target portable.

    Args:
        graph: Graph with a node for each layer; inputs that are int8 already stay so.
        layers: Layers of the manifest, which give the shapes.
        folder: Folder of the external data. Unpacked tensors are stored in the model.

    Returns:
        A function that unpacks them in place.

    Raises:
        ExportError: The size of a packed input contradicts the manifest, or it is external data and ``folder`` is not
            given.
    """
    shapes = {layer.name: int8_shapes(layer) for layer in layers}
    packed: dict[str, tuple[int, ...]] = {}
    for node, name, tensor in _int8_inputs(graph):
        if tensor.data_type == TensorProto.INT32:
            shape = shapes[node.name][name]
            if list(tensor.dims) != [packed_size(math.prod(shape))]:
                raise ExportError(
                    f"{tensor.name} has shape {list(tensor.dims)}; {math.prod(shape)} int8 values of layer {node.name} "
                    f"need [{packed_size(math.prod(shape))}]",
                    "another tool changed the file; quantize the float file again",
                )
            _check_stored(tensor, folder)
            packed[tensor.name] = shape

    def unpack() -> None:
        for tensor in graph.initializer:
            if tensor.name in packed:
                shape = packed[tensor.name]
                values = tensor_values(tensor, folder or Path()).astype("<i4").view(np.int8)
                _replace(tensor, np.ascontiguousarray(values[: math.prod(shape)].reshape(shape[::-1]).T))
        _forget_types(graph, packed)

    return unpack


def int8_shapes(layer: LayerEntry) -> dict[str, tuple[int, ...]]:
    """Shapes of the int8 inputs of a layer (docs/op.md)."""
    shapes = layer.signature.weight_shapes(layer.model_dim, layer.hidden_dim)
    return {name: shape for name, shape in shapes.items() if name in INT8_INPUTS}


def packed_size(size: int) -> int:
    """Number of int32 elements that hold ``size`` int8 values."""
    return -(-size // PER_ELEMENT)


def _int8_inputs(graph: GraphProto) -> Iterator[tuple[NodeProto, str, TensorProto]]:
    """Each node of the int8 operator, with the name of an int8 input in docs/op.md and its initializer."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        operator = operator_of(node.op_type)
        if operator not in INT8_OPERATORS:
            continue
        for name, value in zip(OPERATORS[operator], node.input, strict=False):
            if name in INT8_INPUTS:
                if value not in initializers:
                    raise ExportError(
                        f"{name} of layer {node.name} ({value}) is not an initializer",
                        "another tool changed the file; quantize the float file again",
                    )
                yield node, name, initializers[value]


def _check_stored(tensor: TensorProto, folder: Path | None) -> None:
    if tensor.data_location == TensorProto.EXTERNAL and folder is None:
        raise ExportError(
            f"the int8 weights {tensor.name} are stored in another file and cannot be rewritten for another target",
            "export the float model for the target that you need (export --target), and quantize that file",
        )


def _replace(tensor: TensorProto, values: NDArray[np.generic]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _forget_types(graph: GraphProto, names: Collection[str]) -> None:
    """Remove the types that the graph states for changed initializers; initializers carry their own."""
    kept = [value for value in graph.value_info if value.name not in names]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)
