"""Files of earlier versions, whose portable bodies had the name of the operator and differed by ``overload``.

NVIDIA's ONNX parser and ONNX Runtime before 1.27 ignore ``overload`` and run one body for all layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.op.quantized_signature import OPERATORS
from acm_export.op.signature import DOMAIN

if TYPE_CHECKING:
    import onnx


def replace_overloads(model: onnx.ModelProto) -> None:
    """Give each portable body and its nodes the name of its signature, in place; functions of others stay as they are.

    Args:
        model: Any model. Earlier versions wrote the part of the name that follows the operator as the overload.
    """
    for function in model.functions:
        if function.overload and function.domain == DOMAIN and function.name in OPERATORS:
            function.name = f"{function.name}_{function.overload}"
            function.ClearField("overload")
    for node in model.graph.node:
        if node.overload and node.domain == DOMAIN and node.op_type in OPERATORS:
            node.op_type = f"{node.op_type}_{node.overload}"
            node.ClearField("overload")
