"""Forward passes of ACM layers in training, in which gradients reach the gates."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from acm_export.distillation.choices import chosen_output, logits_at, straight_through
from acm_export.modules import acm_layers
from acm_export.modules.gated_learners import margins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from acm_export.distillation.record import PaddingListener
    from acm_export.modules import ACMLayer


class LayerRunner(Protocol):
    """Replaces the forward pass of ACM layers."""

    def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
        """Run the layer ``name``: tokens ``[..., D]`` to ``[..., D]``."""


_Runner = TypeVar("_Runner", bound=LayerRunner)


class GatedPass:
    """Runs the ACM layers in one forward pass of a model and keeps their choices.

    Args:
        padding: Listener that knows which tokens are padding; these run ``min_learners``.
        thresholds: One threshold per sample ``[batch]``; None for the gates' own argmax.
        noise: Sample choices.
    """

    def __init__(self, padding: PaddingListener, thresholds: torch.Tensor | None, *, noise: bool = True) -> None:
        self._padding, self._thresholds, self._noise = padding, thresholds, noise
        self.choices: dict[str, torch.Tensor] = {}
        self.probabilities: dict[str, torch.Tensor] = {}
        self.margins: dict[str, torch.Tensor] = {}
        self.checksums: dict[str, torch.Tensor] = {}
        self.valid: torch.Tensor | None = None

    def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
        """Run one layer: tokens ``[..., D]`` to ``[..., D]``."""
        with torch.autocast(x.device.type, enabled=False):
            z = layer.gate(x)
        valid = self._padding.valid_at(name)
        valid = valid if valid is not None and valid.shape == z.shape[:-1] else None
        self.valid = self.valid if valid is None else valid
        found = margins(z.detach())
        self.margins[name] = found.reshape(-1, found.shape[-1]) if valid is None else found[valid]
        if self._thresholds is not None:
            z = logits_at(z, self._thresholds.view(-1, *(1,) * (z.ndim - 2)))
        choice, self.probabilities[name] = straight_through(z, noise=self._noise)
        if valid is not None:
            fewest = torch.zeros_like(choice)
            fewest[..., 0] = 1
            choice = torch.where(valid.unsqueeze(-1), choice, fewest)
        self.choices[name] = choice
        y = chosen_output(layer, x, choice)
        self.checksums[name] = y.detach().float().sum()
        return y


@contextmanager
def gated(model: nn.Module, runner: _Runner) -> Iterator[_Runner]:
    """Replace the forward pass of every ACM layer by ``runner`` inside the block."""
    layers = list(acm_layers(model))
    for name, layer in layers:
        layer.forward = partial(_forward, runner, name, layer)  # type: ignore[method-assign]
    try:
        yield runner
    finally:
        for _, layer in layers:
            del layer.forward


def _forward(runner: LayerRunner, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    return layer.as_output(runner.run(name, layer, layer.as_tokens(x)))
