"""Rewrite GatedLearners nodes as QuantizedGatedLearners (docs/op.md, "The int8 operator")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import helper

from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.op.quantized_signature import QUANTIZED_NAME, operator_of
from acm_export.op.signature import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from acm_export.onnx_file.quantization.edit import GraphEdit


@dataclass(frozen=True)
class QuantizedLearners:
    """The int8 weights and the scales of one ACM layer, as the operator takes them.

    Args:
        x_mult: float32 ``[D]``.
        w1: int8 ``[D, N*h]``.
        s1: float32 ``[N*h]``.
        b1: float32 ``[N*h]``.
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
    h_mult: NDArray[np.float32]
    h_zero: NDArray[np.int8]
    w2: NDArray[np.int8]
    s2: NDArray[np.float32]
    b2: NDArray[np.float32]


@dataclass(frozen=True)
class LearnerWeights:
    """Names of the values of one GatedLearners node.

    Args:
        x: Tokens ``[..., D]``.
        w1, b1, w2, b2: Initializers, as in docs/op.md.
    """

    x: str
    w1: str
    b1: str
    w2: str
    b2: str


def find_learners(model: onnx.ModelProto) -> dict[str, LearnerWeights]:
    """The GatedLearners nodes of a model, by layer."""
    return {
        node.name: LearnerWeights(node.input[0], *node.input[3:7])
        for node in gated_learners_nodes(model)
        if operator_of(node.op_type) == NAME
    }


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
        names = [edit.weight(f"{node.name}.int8.{field}", values) for field, values in vars(layers[node.name]).items()]
        new = helper.make_node(
            QUANTIZED_NAME, [*node.input[:3], *names], list(node.output), name=node.name, domain=node.domain
        )
        new.attribute.extend(node.attribute)
        new.attribute.append(helper.make_attribute("dynamic", int(dynamic)))
        edit.replace(node, [new])
