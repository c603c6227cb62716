"""What one step of a phase gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

Arrays = dict[str, torch.Tensor]


@dataclass
class Loss:
    """Of one step.

    Args:
        value: What is minimised.
        checks: By layer, finite where the layer is sound.
        tokens: That went through an ACM layer, padding left out.
        by_layer: Parts of the value, in the phases that train layers one by one.
        budget: β of the step, where there is one.
    """

    value: torch.Tensor
    checks: dict[str, torch.Tensor]
    tokens: int
    by_layer: dict[str, torch.Tensor] = field(default_factory=dict)
    budget: torch.Tensor | None = None

    def everything(self) -> torch.Tensor:
        """The loss and what there is by layer, ``[1 + layers]``; not finite where any part of the model is broken."""
        return torch.stack([self.value.detach().float(), *(v.detach().float() for v in self.checks.values())])

    def broken_layer(self) -> str | None:
        """The first layer that is not finite."""
        return next((name for name, value in self.checks.items() if not bool(value.isfinite())), None)
