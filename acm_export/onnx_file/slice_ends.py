"""Slice to the end of a reversed axis, in a form that NVIDIA's ONNX parser reads.

``torch.flip`` becomes a Slice with step -1 that ends at the smallest int64. Where the length of the axis is computed,
the parser of TensorRT-RTX 1.7.1 takes that for an empty result. The next larger number means the same to ONNX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from onnx import GraphProto

_SMALLEST = np.iinfo(np.int64).min
_ENDS = 2


def bound_slice_ends(graph: GraphProto) -> None:
    """Replace the smallest int64 in the ends of every Slice, in place; a tensor that has other uses stays."""
    uses = [(node.op_type == "Slice" and i == _ENDS, name) for node in graph.node for i, name in enumerate(node.input)]
    only_ends = {name for is_end, name in uses if is_end} - {name for is_end, name in uses if not is_end}
    for tensor in graph.initializer:
        if tensor.name not in only_ends or tensor.data_location == TensorProto.EXTERNAL:
            continue
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int64 and (values == _SMALLEST).any():
            bounded = np.maximum(values, _SMALLEST + 1)
            tensor.CopyFrom(numpy_helper.from_array(bounded, tensor.name))
