"""Cast without ``saturate`` (opset 19), which is about 8-bit floating point alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, without

if TYPE_CHECKING:
    from onnx import NodeProto


def cast(node: NodeProto, graph: Graph) -> list[NodeProto]:  # noqa: ARG001  every rule has this form
    """The same cast; types that the parser lacks are refused elsewhere (operators.py)."""
    return [without(node, "saturate")]
