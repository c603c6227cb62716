"""Reductions: opset 18 takes the axes as an input, opset 17 as an attribute (ReduceSum as an input in both)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal, without

if TYPE_CHECKING:
    from onnx import NodeProto

_AXES_STAY_AN_INPUT = "ReduceSum"


def reduction(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """The same reduction over constant axes; an Identity if ``noop_with_empty_axes`` applies.

    TensorRT 8.5's parser ignores ``noop_with_empty_axes``.
    """
    axes = _axes(node, graph)
    lowered = without(node, "noop_with_empty_axes")
    if axes == [] and attributes_of(node).get("noop_with_empty_axes", 0):
        return Steps(node, graph).finish("Identity", node.input[0])
    if node.op_type == _AXES_STAY_AN_INPUT and axes:
        return [lowered]
    del lowered.input[1:]
    if axes:
        lowered.attribute.append(helper.make_attribute("axes", axes))
    return [lowered]


def _axes(node: NodeProto, graph: Graph) -> list[int]:
    """Axes of the second input; empty if it is missing or empty."""
    if len(node.input) < 2 or not node.input[1]:
        return []
    axes = graph.known(node.input[1])
    if axes is None:
        raise refusal(node, "its axes are computed, or stored in another file")
    return [int(axis) for axis in axes]
