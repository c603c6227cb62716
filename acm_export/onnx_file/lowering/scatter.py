"""ScatterElements and ScatterND: TensorRT 8's parser ignores their ``reduction``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.graph import Graph, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto


def scatter(node: NodeProto, graph: Graph) -> list[NodeProto]:  # noqa: ARG001  every rule has this signature
    """The node unchanged; refuses a reduction."""
    if (kind := attributes_of(node).get("reduction", b"none")) != b"none":
        raise refusal(node, f"the parser of TensorRT 8 ignores its reduction {kind.decode()}")
    return [node]
