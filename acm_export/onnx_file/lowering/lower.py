"""Apply all rules to a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.onnx_file.lowering.cast import cast
from acm_export.onnx_file.lowering.constant import constant
from acm_export.onnx_file.lowering.gelu import gelu
from acm_export.onnx_file.lowering.graph import Graph
from acm_export.onnx_file.lowering.layer_normalization import layer_normalization
from acm_export.onnx_file.lowering.normalization import normalization
from acm_export.onnx_file.lowering.operators import check_form, check_operator, check_types
from acm_export.onnx_file.lowering.pad import pad
from acm_export.onnx_file.lowering.quantization import dequantize_linear, quantize_linear
from acm_export.onnx_file.lowering.reduction import reduction
from acm_export.onnx_file.lowering.reshape import reshape
from acm_export.onnx_file.lowering.scatter import scatter
from acm_export.onnx_file.lowering.shape import shape
from acm_export.onnx_file.lowering.split import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from onnx import GraphProto, NodeProto

DECOMPOSITIONS: dict[str, Callable[[NodeProto, Graph], list[NodeProto]]] = {
    "Gelu": gelu,
    "LayerNormalization": layer_normalization,
}
"""Rules for operators that the parser does not support."""

RULES: dict[str, Callable[[NodeProto, Graph], list[NodeProto]]] = {
    "Cast": cast,
    "Constant": constant,
    "DequantizeLinear": dequantize_linear,
    "InstanceNormalization": normalization,
    "Pad": pad,
    "QuantizeLinear": quantize_linear,
    "Reshape": reshape,
    "Shape": shape,
    "Split": split,
    "ScatterElements": scatter,
    "ScatterND": scatter,
    "ReduceL1": reduction,
    "ReduceL2": reduction,
    "ReduceLogSum": reduction,
    "ReduceLogSumExp": reduction,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceMin": reduction,
    "ReduceProd": reduction,
    "ReduceSum": reduction,
    "ReduceSumSquare": reduction,
}
"""Rules for operators that the parser supports in another form."""


def lower(graph: GraphProto, opset: int, folder: Path | None = None) -> None:
    """Rewrite a graph in the operators that TensorRT 8.5 parses, in place.

    Args:
        graph: Graph with a value_info for every value, as acm-export writes it; weights need not be loaded.
        opset: Version of the graph's default operator set, 17 to 22.
        folder: Folder of the external data, if constants that rules read may be in it.

    Raises:
        ExportError: TensorRT 8.5 has no equivalent of an operator or a type; the graph is unchanged.
    """
    check_types(graph)
    view, nodes = Graph(graph, folder), []
    for node in graph.node:
        nodes += _rewritten(node, view, opset)
    before, after = _read(graph.node), _read(nodes) | {value.name for value in graph.output}
    del graph.node[:]
    graph.node.extend(nodes)
    unused = [i for i, tensor in enumerate(graph.initializer) if tensor.name in before - after]
    for i in reversed(unused):
        del graph.initializer[i]
    graph.initializer.extend(view.added)


def _rewritten(node: NodeProto, view: Graph, opset: int) -> list[NodeProto]:
    if node.op_type in DECOMPOSITIONS:
        return DECOMPOSITIONS[node.op_type](node, view)
    check_operator(node, opset)
    nodes = RULES[node.op_type](node, view) if node.op_type in RULES else [node]
    for result in nodes:
        check_form(result)
    return nodes


def _read(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}
