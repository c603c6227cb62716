"""Gelu (opset 20) from Erf or Tanh.

https://onnx.ai/onnx/operators/onnx__Gelu.html gives both formulas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of

if TYPE_CHECKING:
    from onnx import NodeProto


def gelu(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """``x * 0.5 * (1 + erf(x / sqrt(2)))``, or the approximation with tanh, in the type of x."""
    (x,) = node.input
    element = graph.element_type(node, x)
    steps = Steps(node, graph)
    half_x = steps.add("Mul", x, graph.scalar(0.5, element))
    if attributes_of(node).get("approximate", b"none") == b"tanh":
        odd = steps.add("Tanh", _tanh_argument(x, element, steps, graph))
    else:
        odd = steps.add("Erf", steps.add("Div", x, graph.scalar(math.sqrt(2), element)))
    return steps.finish("Mul", half_x, steps.add("Add", odd, graph.scalar(1, element)))


def _tanh_argument(x: str, element: int, steps: Steps, graph: Graph) -> str:
    """``sqrt(2 / pi) * (x + 0.044715 * x**3)``; if the cube overflows float16, tanh still gives its limit."""
    cube = steps.add("Mul", steps.add("Mul", x, x), x)
    scaled = steps.add("Mul", cube, graph.scalar(0.044715, element))
    return steps.add("Mul", steps.add("Add", x, scaled), graph.scalar(math.sqrt(2 / math.pi), element))
