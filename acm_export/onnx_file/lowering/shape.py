"""Shape of a range of axes: TensorRT 8's parser ignores ``start`` and ``end`` and returns all axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, without

if TYPE_CHECKING:
    from onnx import NodeProto

_TO_THE_END = np.iinfo(np.int32).max
"""TensorRT 8 has no int64."""


def shape(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """Shape without attributes, followed by a Slice if a range is selected."""
    attributes = attributes_of(node)
    start, end = attributes.get("start", 0), attributes.get("end", _TO_THE_END)
    if (start, end) == (0, _TO_THE_END):
        return [without(node, "start", "end")]
    steps = Steps(node, graph)
    whole = steps.add("Shape", *node.input)
    return steps.finish("Slice", whole, graph.indices(start), graph.indices(end), graph.indices(0))
