"""LayerNormalization from ReduceMean, in the two stages of its definition.

https://onnx.ai/onnx/operators/onnx__LayerNormalization.html: the first stage runs in the type ``stash_type``. Here it
is float32 whatever the file says: a residual of 1,500 squared is more than float16 holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto

_STATISTICS = TensorProto.FLOAT


def layer_normalization(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """Means and the division in float32 between explicit casts, scale and bias in the type of x."""
    if any(node.output[1:]):
        raise refusal(node, "its outputs Mean and InvStdDev are used")
    x, scale, *bias = node.input
    attributes = attributes_of(node)
    element = graph.element_type(node, x)
    axes = _axes(node, graph, attributes.get("axis", -1))
    steps = Steps(node, graph)
    wide = x if element == _STATISTICS else steps.add("Cast", x, to=_STATISTICS)
    centred = steps.add("Sub", wide, steps.add("ReduceMean", wide, axes=axes, keepdims=1))
    variance = steps.add("ReduceMean", steps.add("Mul", centred, centred), axes=axes, keepdims=1)
    epsilon = graph.scalar(attributes.get("epsilon", 1e-5), _STATISTICS)
    normal = steps.add("Div", centred, steps.add("Sqrt", steps.add("Add", variance, epsilon)))
    if element != _STATISTICS:
        normal = steps.add("Cast", normal, to=element)
    if not any(bias):
        return steps.finish("Mul", normal, scale)
    return steps.finish("Add", steps.add("Mul", normal, scale), *bias)


def _axes(node: NodeProto, graph: Graph, axis: int) -> list[int]:
    """Axes from ``axis`` to the last, counted from the end."""
    return list(range(axis if axis < 0 else axis - len(graph.shape(node, node.input[0])), 0))
