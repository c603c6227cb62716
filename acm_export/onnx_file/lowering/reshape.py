"""Reshape without ``allowzero`` if it has no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, attributes_of, without

if TYPE_CHECKING:
    from onnx import NodeProto


def reshape(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """Keep the attribute only if a computed or zero size needs it; TensorRT 8.5's parser supports it."""
    sizes = graph.known(node.input[1])
    if attributes_of(node).get("allowzero", 0) and (sizes is None or 0 in sizes):
        return [node]
    return [without(node, "allowzero")]
