"""Rewrite the float nodes of ACM layers as nodes of the int8 operators (docs/op.md, "The int8 operator")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import helper

from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.op.quantized_signature import OPERATORS, QUANTIZED_GLU_NAME, QUANTIZED_NAME, operator_of
from acm_export.op.signature import GLU_NAME, INPUTS, NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from acm_export.onnx_file.quantization.edit import GraphEdit


_INT8_OPERATOR = {NAME: QUANTIZED_NAME, GLU_NAME: QUANTIZED_GLU_NAME}
_FIRST_WEIGHT = INPUTS.index("thresholds") + 1


@dataclass(frozen=True, kw_only=True)
class QuantizedLearners:
    """The int8 weights and the scales of one ACM layer, in the order of the operator's inputs.

    Args:
        x_mult: float32 ``[D]``.
        w1: int8 ``[D, N*h]``.
        s1: float32 ``[N*h]``.
        b1: float32 ``[N*h]``.
        v1: int8 ``[D, N*h]``, and None for a layer without the multiplied branch of a GLU, as t1 and c1.
        t1: float32 ``[N*h]``.
        c1: float32 ``[N*h]``.
        h_mult: float32 ``[N]``.
        h_zero: int8 ``[N]``.
        w2: int8 ``[N*h, D]``.
        s2: float32 ``[D]``.
        b2: float32 ``[N+1, D]``, zero points folded in.
    """

    x_mult: NDArray[np.float32]
    w1: NDArray[np.int8]
    s1: NDArray[np.float32]
    b1: NDArray[np.float32]
    v1: NDArray[np.int8] | None = None
    t1: NDArray[np.float32] | None = None
    c1: NDArray[np.float32] | None = None
    h_mult: NDArray[np.float32]
    h_zero: NDArray[np.int8]
    w2: NDArray[np.int8]
    s2: NDArray[np.float32]
    b2: NDArray[np.float32]

    @property
    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """The operator's inputs after the thresholds, by name and in their order."""
        return {name: values for name, values in vars(self).items() if values is not None}


@dataclass(frozen=True)
class LearnerWeights:
    """Names of the values of the node of one float layer.

    Args:
        x: Tokens ``[..., D]``.
        w1, b1, w2, b2: Initializers, as in docs/op.md.
        v1, c1: Initializers of the multiplied branch of a GLU, or None.
    """

    x: str
    w1: str
    b1: str
    w2: str
    b2: str
    v1: str | None = None
    c1: str | None = None


def find_learners(model: onnx.ModelProto) -> dict[str, LearnerWeights]:
    """The nodes of float layers, by layer."""
    found = {}
    for node in gated_learners_nodes(model):
        operator = operator_of(node.op_type)
        if operator in _INT8_OPERATOR:
            weights = zip(OPERATORS[operator][_FIRST_WEIGHT:], node.input[_FIRST_WEIGHT:], strict=True)
            found[node.name] = LearnerWeights(node.input[0], **dict(weights))
    return found


def rewrite_learners(
    model: onnx.ModelProto, layers: Mapping[str, QuantizedLearners], edit: GraphEdit, dynamic: bool
) -> None:
    """Replace the nodes of layers; the new initializers are named ``<layer>.int8.<input>``.

    Args:
        model: Model that ``edit`` changes.
        layers: Weights and scales by layer.
        edit: Receives the new nodes and weights.
        dynamic: Whether the op scales each token at run time.
    """
    for node in gated_learners_nodes(model):
        if node.name not in layers:
            continue
        weights = layers[node.name].inputs
        names = [edit.weight(f"{node.name}.int8.{name}", values) for name, values in weights.items()]
        inputs = [*node.input[:_FIRST_WEIGHT], *names]
        operator = _INT8_OPERATOR[str(operator_of(node.op_type))]
        new = helper.make_node(operator, inputs, list(node.output), name=node.name, domain=node.domain)
        new.attribute.extend(node.attribute)
        new.attribute.append(helper.make_attribute("dynamic", int(dynamic)))
        edit.replace(node, [new])
