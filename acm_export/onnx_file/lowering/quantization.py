"""QuantizeLinear and DequantizeLinear with float32 scales: opset 19 allows float16, opset 17 does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto

_NEWER = ("block_size", "output_dtype")


def quantize_linear(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """The same rounding in float32, behind a Cast if x, whose type is that of the scale, is float16."""
    x, scale, *zero = node.input
    steps = Steps(node, graph)
    if graph.element_type(node, scale) != TensorProto.FLOAT:
        x = steps.add("Cast", x, to=TensorProto.FLOAT)
    return steps.finish("QuantizeLinear", x, _float32(node, scale, graph), *zero, **_attributes(node))


def dequantize_linear(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """The same product in float32, before a Cast if the scale is float16."""
    x, scale, *zero = node.input
    steps, element = Steps(node, graph), graph.element_type(node, scale)
    inputs = (x, _float32(node, scale, graph), *zero)
    if element == TensorProto.FLOAT:
        return steps.finish("DequantizeLinear", *inputs, **_attributes(node))
    return steps.finish("Cast", steps.add("DequantizeLinear", *inputs, **_attributes(node)), to=element)


def _attributes(node: NodeProto) -> dict[str, int]:
    """The axis; ``saturate`` only affects 8-bit floating point, and the parser does not support newer forms."""
    attributes = attributes_of(node)
    for name in _NEWER:
        if attributes.get(name, 0):
            raise refusal(node, f"its attribute {name} is {attributes[name]}")
    return {"axis": attributes["axis"]} if "axis" in attributes else {}


def _float32(node: NodeProto, scale: str, graph: Graph) -> str:
    """Name of a scale in float32, which the parser requires to be a constant."""
    if graph.element_type(node, scale) == TensorProto.FLOAT:
        return scale
    value = graph.known(scale)
    if value is None:
        raise refusal(node, f"its scale {scale} is computed, or stored in another file")
    return graph.constant(value.astype(np.float32))
