"""Split by a number of outputs (opset 18) as Split by sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto


def split(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """Explicit sizes: all equal except the last, which is smaller if the axis is not divisible."""
    attributes = attributes_of(node)
    if "num_outputs" not in attributes:
        return [node]
    axis, parts = attributes.get("axis", 0), attributes["num_outputs"]
    size = graph.shape(node, node.input[0])[axis]
    if size is None:
        raise refusal(node, f"it splits axis {axis}, whose size is dynamic, into {parts} parts")
    part = -(-size // parts)
    sizes = graph.indices(*[part] * (parts - 1), size - part * (parts - 1))
    return Steps(node, graph).finish("Split", node.input[0], sizes, axis=axis)
