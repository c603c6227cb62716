"""Normalizations of half-precision values in float32, between casts.

TensorRT 10 and 11 build strongly typed networks, in which ``stash_type`` has no effect: the types of the inputs decide
the precision of a normalization (NvInfer.h, INormalizationLayer::setComputePrecision).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, without

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_NORMALIZATIONS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization")
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def normalization(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """The same operator on casts of its inputs, and a cast of its output; float32 nodes stay as they are."""
    element = graph.known_type(node.input[1])
    if element not in _HALVES or any(node.output[1:]):
        return [node]
    node = without(node)  # a copy: the graph must not change if another node is refused
    del node.output[1:]
    steps = Steps(node, graph)
    inputs = [steps.add("Cast", name, to=TensorProto.FLOAT) if name else "" for name in node.input]
    return steps.finish("Cast", steps.add(node.op_type, *inputs, **attributes_of(node)), to=element)


def normalizations_in_float32(graph: GraphProto) -> None:
    """Rewrite all normalizations of a graph, in place.

    Args:
        graph: Graph of a file; weights need not be loaded.
    """
    view = Graph(graph)
    nodes = [new for node in graph.node for new in (normalization(node, view) if _is_one(node) else [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_one(node: NodeProto) -> bool:
    return node.op_type in _NORMALIZATIONS and not node.domain
