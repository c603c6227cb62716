"""Constant as a tensor: TensorRT 8's parser reads ``value_int`` as 0 and ignores ``value_ints``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from acm_export.onnx_file.lowering.graph import Graph, Steps, attributes_of, refusal

if TYPE_CHECKING:
    from onnx import NodeProto

_DTYPES = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def constant(node: NodeProto, graph: Graph) -> list[NodeProto]:
    """The same constant in the attribute ``value``."""
    ((name, value),) = attributes_of(node).items()
    if name == "value":
        return [node]
    if name not in _DTYPES:
        raise refusal(node, f"its value is in the attribute {name}")
    return Steps(node, graph).finish("Constant", value=numpy_helper.from_array(np.array(value, _DTYPES[name])))
