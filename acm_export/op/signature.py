"""Identity of the operators GatedLearners and GLUGatedLearners, and their attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from acm_export.base.errors import OpError

DOMAIN = "ai.acm"
NAME = "GatedLearners"
GLU_NAME = "GLUGatedLearners"
VERSION = 1

INPUTS = ("x", "gate_logits", "thresholds", "w1", "b1", "w2", "b2")
GLU_INPUTS = ("x", "gate_logits", "thresholds", "w1", "b1", "v1", "c1", "w2", "b2")
OUTPUTS = ("y", "counts")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")
MAX_LEARNERS = 64


@dataclass(frozen=True)
class Signature:
    """The operator of one node and its attributes (docs/op.md, "Attributes", "The operator for gated FFNs").

    Args:
        num_learners: Number of learners N, 1..64.
        min_learners: Number of learners that always run, 0..N.
        activation: Activation of the hidden values, one of :data:`ACTIVATIONS`.
        glu: Whether each learner multiplies its activations by a second linear map of its input, as in SwiGLU. It
            selects the operator, and is not an attribute of the node.

    Raises:
        OpError: An attribute is out of range.
    """

    num_learners: int
    min_learners: int
    activation: str
    glu: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("num_learners", "min_learners"):
            if not isinstance(getattr(self, name), int):
                raise OpError(f"{name} is {getattr(self, name)!r}; it must be an integer")
        if not 1 <= self.num_learners <= MAX_LEARNERS:
            raise OpError(f"num_learners is {self.num_learners}; it must be in 1..{MAX_LEARNERS}")
        if not 0 <= self.min_learners <= self.num_learners:
            raise OpError(
                f"min_learners is {self.min_learners}; with num_learners = {self.num_learners} "
                f"it must be in 0..{self.num_learners}"
            )
        if not isinstance(self.glu, bool):
            raise OpError(f"glu is {self.glu!r}; it must be true or false")
        if self.activation not in ACTIVATIONS:
            raise OpError(f"activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}")

    @property
    def num_choices(self) -> int:
        """C, the number of gate logits per token: one for each learner count min_learners..N."""
        return self.num_learners - self.min_learners + 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the operator's inputs."""
        return GLU_INPUTS if self.glu else INPUTS

    @property
    def operator(self) -> str:
        """The operator that has these attributes."""
        return GLU_NAME if self.glu else NAME

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the node by name, without those for TensorRT."""
        return {
            "num_learners": self.num_learners,
            "min_learners": self.min_learners,
            "activation": self.activation,
        }

    def weight_shapes(self, model_dim: int, hidden_dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs after the thresholds, by name.

        Args:
            model_dim: D.
            hidden_dim: h, the hidden width of one learner.
        """
        width = self.num_learners * hidden_dim
        shapes: dict[str, tuple[int, ...]] = {
            "w1": (model_dim, width),
            "b1": (width,),
            "v1": (model_dim, width),
            "c1": (width,),
            "w2": (width, model_dim),
            "b2": (self.num_learners + 1, model_dim),
        }
        return {name: shapes[name] for name in self.inputs if name in shapes}

    @property
    def function_name(self) -> str:
        """Name of this signature's portable body and of its nodes, such as ``GatedLearners_n4_min0_gelu``."""
        return f"{self.operator}_n{self.num_learners}_min{self.min_learners}_{self.activation}"
