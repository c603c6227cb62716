"""Pad without what opsets 18 and 19 added: chosen axes and wrapping around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto


def pad(node: NodeProto, graph: Graph) -> list[NodeProto]:  # noqa: ARG001  every rule has this form
    """The node as it is, or a refusal."""
    if any(node.input[3:]):
        raise refusal(node, "it pads chosen axes, which came with opset 18")
    if (mode := attributes_of(node).get("mode", b"constant")) == b"wrap":
        raise refusal(node, f"the mode {mode.decode()} came with opset 19")
    return [node]
