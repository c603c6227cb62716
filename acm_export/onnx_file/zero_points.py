"""The type of quantised activations of dense linear layers, which depends on the runtime.

The values are the same: int8 q with the zero point 0, or uint8 q + 128 with the zero point 128. TensorRT takes only the
former. ONNX Runtime's fast kernels on x86 take the latter; it converts int8 itself, but not where several layers read
one tensor (tested: 1.20.1, 1.23.2 and 1.32.0 then run those products in float).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    import onnx

_ZEROS = {TensorProto.INT8: np.array(0, np.int8), TensorProto.UINT8: np.array(128, np.uint8)}


def fit_zero_points(model: onnx.ModelProto, target: str) -> None:
    """Give all quantised activations the type for a target, in place.

    Args:
        model: Model whose QuantizeLinear nodes, if any, come from ``quantize``.
        target: The target: ``portable`` for ONNX Runtime, any other for TensorRT.
    """
    element = TensorProto.UINT8 if target == "portable" else TensorProto.INT8
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zeros, outputs = {node.input[2] for node in nodes}, {node.output[0] for node in nodes}
    for tensor in model.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(_ZEROS[element], tensor.name))
    for value in model.graph.value_info:
        if value.name in outputs:
            value.type.tensor_type.elem_type = element
