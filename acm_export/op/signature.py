"""Identity of the operator, and its three attributes."""

from __future__ import annotations

from dataclasses import dataclass

from acm_export.base.errors import OpError

DOMAIN = "ai.acm"
NAME = "GatedLearners"
VERSION = 1

INPUTS = ("x", "gate_logits", "thresholds", "w1", "b1", "w2", "b2")
OUTPUTS = ("y", "counts")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")
MAX_LEARNERS = 64


@dataclass(frozen=True)
class Signature:
    """The attributes of one GatedLearners node (docs/op.md, "Attributes").

    Args:
        num_learners: Number of learners N, 1..64.
        min_learners: Number of learners that always run, 0..N.
        activation: Activation of the hidden values, one of :data:`ACTIVATIONS`.

    Raises:
        OpError: An attribute is out of range.
    """

    num_learners: int
    min_learners: int
    activation: str

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
        if self.activation not in ACTIVATIONS:
            raise OpError(f"activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}")

    @property
    def num_choices(self) -> int:
        """C, the number of gate logits per token: one for each learner count min_learners..N."""
        return self.num_learners - self.min_learners + 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the operator's inputs."""
        return INPUTS

    @property
    def operator(self) -> str:
        """The operator that has these attributes."""
        return NAME

    @property
    def function_name(self) -> str:
        """Name of this signature's portable body and of its nodes, such as ``GatedLearners_n4_min0_gelu``."""
        return f"{self.operator}_n{self.num_learners}_min{self.min_learners}_{self.activation}"
