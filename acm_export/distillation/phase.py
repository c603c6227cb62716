"""The interface between the trainer and a phase, and the result of one training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.distillation.state import State

Arrays = dict[str, torch.Tensor]

PHASE_TITLES = ("learners", "gates", "whole model")


@dataclass
class StepLoss:
    """The loss of one step.

    Args:
        value: Scalar to minimise.
        checks: One scalar for each layer, which is finite if the layer is.
        tokens: Number of tokens that passed through an ACM layer, without padding.
        by_layer: Loss of each layer, in the phases that train layers separately.
        budget: Mean β of the step; None in the phases that have no budget.
    """

    value: torch.Tensor
    checks: dict[str, torch.Tensor]
    tokens: int
    by_layer: dict[str, torch.Tensor] = field(default_factory=dict)
    budget: torch.Tensor | None = None

    def finite_checks(self) -> torch.Tensor:
        """The loss and the checks of all layers, ``[1 + layers]``; not finite if any part of the model is not."""
        return torch.stack([self.value.detach().float(), *(v.detach().float() for v in self.checks.values())])

    def broken_layer(self) -> str | None:
        """Name of the first layer that is not finite, or None."""
        return next((name for name, value in self.checks.items() if not bool(value.isfinite())), None)


class ParameterGroup(NamedTuple):
    """Parameters with the same learning rate.

    Args:
        parameters: Parameters; may be empty.
        rate_factor: Learning rate of the parameters ÷ learning rate of the phase.
    """

    parameters: list[nn.Parameter]
    rate_factor: float


class Phase(nn.Module, ABC):
    """One of the three phases: a module whose forward pass returns the loss of a step."""

    number: ClassVar[int]
    """Number of the phase, 1 to 3."""

    @property
    def title(self) -> str:
        """What the phase trains."""
        return PHASE_TITLES[self.number - 1]

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters that the phase trains."""

    def after_step(self, state: State, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Update values that are not trained by gradients; does nothing by default.

        Args:
            state: State of the run, changed in place.
            mean: Averages a tensor over all processes.
        """


def describe_step(phase: int, step: int) -> str:
    """Describe a position in a run, for logs and reports.

    Args:
        phase: 1 to 3; 4 once all phases are done.
        step: Number of finished steps of the phase.
    """
    if phase > len(PHASE_TITLES):
        return "the quality measurement after phase 3"
    return f"step {step} of phase {phase} ({PHASE_TITLES[phase - 1]})"
