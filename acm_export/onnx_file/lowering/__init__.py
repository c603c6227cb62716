"""Rewriting a graph for a parser that knows fewer operators: opset 17 as TensorRT 8.5 parses it.

One rule per file. A rule takes a node and the graph it stands in, and gives the nodes that take its place, with the
same outputs. What no rule can express is refused with the operator's name.
"""

from acm_export.onnx_file.lowering.lower import lower
from acm_export.onnx_file.lowering.operators import IR_VERSION, OPSET

__all__ = ["IR_VERSION", "OPSET", "lower"]
