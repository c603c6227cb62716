"""Pad without the additions of opsets 18 and 19: selected axes and the mode wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto


def pad(node: NodeProto, graph: Graph) -> list[NodeProto]:  # noqa: ARG001  every rule has this signature
    """The node unchanged; refuses the additions."""
    if any(node.input[3:]):
        raise refusal(node, "it pads selected axes, which needs opset 18")
    if (mode := attributes_of(node).get("mode", b"constant")) == b"wrap":
        raise refusal(node, f"the mode {mode.decode()} needs opset 19")
    return [node]
