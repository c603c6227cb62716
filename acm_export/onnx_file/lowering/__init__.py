"""Rewrite a graph for a parser with fewer operators: opset 17 as TensorRT 8.5 parses it.

One rule per file. A rule takes a node and its graph, and returns the nodes that replace it, with the same outputs. An
operator that no rule can express is refused by name.
"""

from acm_export.onnx_file.lowering.lower import lower
from acm_export.onnx_file.lowering.normalization import normalizations_in_float32
from acm_export.onnx_file.lowering.operators import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "OPSET", "lower", "normalizations_in_float32"]
