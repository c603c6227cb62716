"""ACM layers of a model in training: they choose learners so that gradients reach the gates."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from acm_export.distillation.choices import logits_at, straight_through
from acm_export.distillation.prefixes import chosen_output
from acm_export.modules import acm_layers
from acm_export.modules.gated_learners import margins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from acm_export.distillation.record import Masks
    from acm_export.modules import ACMLayer


class GatedPass:
    """Runs the ACM layers of one forward pass and keeps what they decided.

    Args:
        masks: Tells which tokens are padding; those run ``min_learners``.
        thresholds: For each sample ``[batch]``; None for the gates' own argmax.
        noise: Whether choices are drawn.
    """

    def __init__(self, masks: Masks, thresholds: torch.Tensor | None, *, noise: bool = True) -> None:
        self._masks, self._thresholds, self._noise = masks, thresholds, noise
        self.choices: dict[str, torch.Tensor] = {}
        self.probabilities: dict[str, torch.Tensor] = {}
        self.margins: dict[str, torch.Tensor] = {}
        self.checksums: dict[str, torch.Tensor] = {}
        self.valid: torch.Tensor | None = None

    def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
        """The forward of one layer: tokens ``[..., D]`` to ``[..., D]``."""
        with torch.autocast(x.device.type, enabled=False):
            z = layer.gate(x)
        valid = self._masks.tokens
        valid = valid if valid is not None and valid.shape == z.shape[:-1] else None
        self.valid = valid
        found = margins(z.detach())
        self.margins[name] = found.reshape(-1, found.shape[-1]) if valid is None else found[valid]
        if self._thresholds is not None:
            z = logits_at(z, self._thresholds.view(-1, *(1,) * (z.ndim - 2)))
        choice, self.probabilities[name] = straight_through(z, noise=self._noise)
        if valid is not None:
            least = torch.zeros_like(choice)
            least[..., 0] = 1
            choice = torch.where(valid.unsqueeze(-1), choice, least)
        self.choices[name] = choice
        y = chosen_output(layer, x, choice)
        self.checksums[name] = y.detach().float().sum()
        return y

    def broken_layer(self) -> str | None:
        """The first layer whose output is not finite."""
        return next((name for name, total in self.checksums.items() if not bool(total.isfinite())), None)


@contextmanager
def gated(model: nn.Module, run: GatedPass) -> Iterator[GatedPass]:
    """Let ``run`` be the forward of every ACM layer of a model until the block ends."""
    layers = list(acm_layers(model))
    for name, layer in layers:
        layer.forward = partial(_forward, run, name, layer)  # type: ignore[method-assign]
    try:
        yield run
    finally:
        for _, layer in layers:
            del layer.forward


def _forward(run: GatedPass, name: str, layer: ACMLayer, x: torch.Tensor) -> Any:
    return run.run(name, layer, x)
