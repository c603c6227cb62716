"""Memory of the int8 operator's inputs as TensorRT has it, from arrays as in docs/op.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import helper, numpy_helper

from acm_export.onnx_file.lowering.pack_int8 import pack_int8
from acm_export.op import DOMAIN, QUANTIZED_GLU_INPUTS, QUANTIZED_GLU_NAME, QUANTIZED_INPUTS, QUANTIZED_NAME

if TYPE_CHECKING:
    import numpy as np


def packed(feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, bytes]:
    """Bytes of each input, by name; ``v1`` tells the operator."""
    name, inputs = (QUANTIZED_GLU_NAME, QUANTIZED_GLU_INPUTS) if "v1" in feeds else (QUANTIZED_NAME, QUANTIZED_INPUTS)
    tensors = [numpy_helper.from_array(value, name) for name, value in feeds.items() if name != "x"]
    node = helper.make_node(name, inputs, ["y", "counts"], name="layer", domain=DOMAIN)
    graph = helper.make_graph([node], "g", [], [], tensors)
    pack_int8(graph)()
    return {tensor.name: tensor.raw_data for tensor in graph.initializer} | {"x": feeds["x"].tobytes()}
