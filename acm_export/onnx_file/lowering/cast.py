"""Cast without ``saturate`` (opset 19), which only affects 8-bit floating point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, without

if TYPE_CHECKING:
    from onnx import NodeProto


def cast(node: NodeProto, graph: Graph) -> list[NodeProto]:  # noqa: ARG001  every rule has this signature
    """The same cast; types that the parser does not support are refused by operators.py."""
    return [without(node, "saturate")]
