"""Identity of the int8 operators QuantizedGatedLearners and QuantizedGLUGatedLearners, and their attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acm_export.base.errors import OpError
from acm_export.op.signature import GLU_INPUTS, GLU_NAME, INPUTS, NAME, Signature

QUANTIZED_NAME = "QuantizedGatedLearners"
QUANTIZED_GLU_NAME = "QuantizedGLUGatedLearners"
QUANTIZED_INPUTS = (
    "x",
    "gate_logits",
    "thresholds",
    "x_mult",
    "w1",
    "s1",
    "b1",
    "h_mult",
    "h_zero",
    "w2",
    "s2",
    "b2",
)
QUANTIZED_GLU_INPUTS = (
    "x",
    "gate_logits",
    "thresholds",
    "x_mult",
    "w1",
    "s1",
    "b1",
    "v1",
    "t1",
    "c1",
    "h_mult",
    "h_zero",
    "w2",
    "s2",
    "b2",
)
OPERATORS = {
    NAME: INPUTS,
    QUANTIZED_NAME: QUANTIZED_INPUTS,
    GLU_NAME: GLU_INPUTS,
    QUANTIZED_GLU_NAME: QUANTIZED_GLU_INPUTS,
}
"""The operators that an ACM layer runs as, float and int8, with the names of their inputs."""
INT8_OPERATORS = (QUANTIZED_NAME, QUANTIZED_GLU_NAME)
INT8_INPUTS = ("w1", "v1", "h_zero", "w2")
SMALLEST_RANGE = 1e-30
"""With ``dynamic``, the largest absolute value of a token or of its hidden values counts as at least this."""
MAX_SUM = 130_000
"""Largest D and N*h: 128 * 127 * 130,000 < 2**31, so an int32 sum of products cannot overflow."""


@dataclass(frozen=True)
class QuantizedSignature(Signature):
    """The int8 operator of one node and its attributes (docs/op.md, "The int8 operator").

    Args:
        num_learners: Number of learners N, 1..64.
        min_learners: Number of learners that always run, 0..N.
        activation: Activation of the hidden values, one of :data:`acm_export.op.ACTIVATIONS`.
        glu: Whether each learner multiplies its activations by a second linear map of its input.
        dynamic: 1 to scale the activations of each token by their largest value at run time; 0 for fixed scales.

    Raises:
        OpError: An attribute is out of range.
    """

    dynamic: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamic not in (0, 1):
            raise OpError(f"dynamic is {self.dynamic!r}; it must be 0 or 1")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the operator's inputs."""
        return QUANTIZED_GLU_INPUTS if self.glu else QUANTIZED_INPUTS

    @property
    def operator(self) -> str:
        """The operator that has these attributes."""
        return QUANTIZED_GLU_NAME if self.glu else QUANTIZED_NAME

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the node by name, without those for TensorRT."""
        return {**super().attributes, "dynamic": self.dynamic}

    @property
    def function_name(self) -> str:
        """Name of the portable body and of its nodes, such as ``QuantizedGatedLearners_n4_min0_gelu_static``."""
        return f"{super().function_name}_{'dynamic' if self.dynamic else 'static'}"

    def weight_shapes(self, model_dim: int, hidden_dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs after the thresholds, by name; as for :class:`Signature`."""
        width, learners = self.num_learners * hidden_dim, self.num_learners
        more = {
            "x_mult": (model_dim,),
            "s1": (width,),
            "t1": (width,),
            "h_mult": (learners,),
            "h_zero": (learners,),
            "s2": (model_dim,),
        }
        shapes = super().weight_shapes(model_dim, hidden_dim) | more
        return {name: shapes[name] for name in self.inputs if name in shapes}


def operator_of(name: str) -> str | None:
    """The operator that a node or function has by its name, one of :data:`OPERATORS`, or None if it has another name.

    Args:
        name: ``op_type`` of a node, or name of a function; in portable files the operator, ``_`` and the signature.
    """
    operator = name.partition("_")[0]
    return operator if operator in OPERATORS else None
