"""Layers of a half-precision model that compute in float32; the trtexec command for TensorRT 8 must name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from acm_export.op.schema import register

if TYPE_CHECKING:
    from collections.abc import Iterator

_FREE = ("Cast", "Constant", "DequantizeLinear")
"""Operators without a constraint: the parser fixes the type of casts, constants have one, and int8 layers stay free."""


def float32_layers(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the nodes that compute float32 values: statistics of normalizations, gates, interpolated thresholds.

    NVIDIA's parser gives a node's name to its layer.

    Args:
        model: Model for TensorRT; weights need not be loaded.
    """
    elements = _element_types(model)
    for node in model.graph.node:
        if node.op_type not in _FREE and elements.get(node.output[0]) == TensorProto.FLOAT:
            yield node.name


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each computed value, from a copy of the graph with inputs in place of its weights."""
    register()
    graph = model.graph
    copy = helper.make_model(helper.make_graph(graph.node, "types", graph.input, graph.output))
    copy.ir_version = model.ir_version
    del copy.opset_import[:]
    copy.opset_import.extend(model.opset_import)
    inputs = {value.name for value in graph.input}
    copy.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name not in inputs
    )
    inferred = onnx.shape_inference.infer_shapes(copy).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
