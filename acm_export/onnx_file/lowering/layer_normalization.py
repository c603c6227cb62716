"""LayerNormalization from ReduceMean, in the two stages of its definition.

https://onnx.ai/onnx/operators/onnx__LayerNormalization.html: the first stage runs in the type ``stash_type``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto


def layer_normalization(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """Means and the division in ``stash_type`` between explicit casts, scale and bias in the type of x.

    In float16 the sum of squares overflows, so the casts stay in the graph.
    """
    if any(node.output[1:]):
        raise refusal(node, "its outputs Mean and InvStdDev are used")
    x, scale, *bias = node.input
    attributes = attributes_of(node)
    element, stash = graph.element_type(node, x), attributes.get("stash_type", TensorProto.FLOAT)
    axes = _axes(node, graph, attributes.get("axis", -1))
    steps = Steps(node, graph)
    wide = x if element == stash else steps.add("Cast", x, to=stash)
    centred = steps.add("Sub", wide, steps.add("ReduceMean", wide, axes=axes, keepdims=1))
    variance = steps.add("ReduceMean", steps.add("Mul", centred, centred), axes=axes, keepdims=1)
    epsilon = graph.scalar(attributes.get("epsilon", 1e-5), stash)
    normal = steps.add("Div", centred, steps.add("Sqrt", steps.add("Add", variance, epsilon)))
    if element != stash:
        normal = steps.add("Cast", normal, to=element)
    if not any(bias):
        return steps.finish("Mul", normal, scale)
    return steps.finish("Add", steps.add("Mul", normal, scale), *bias)


def _axes(node: NodeProto, graph: Graph, axis: int) -> list[int]:
    """Axes from ``axis`` to the last, counted from the end."""
    return list(range(axis if axis < 0 else axis - len(graph.shape(node, node.input[0])), 0))
