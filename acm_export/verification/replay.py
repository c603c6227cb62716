"""Run the PyTorch model with learner counts given from outside, and watch what its own gates would have chosen."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from torch import nn

    from acm_export.modules import ACMLayer


@dataclass
class Replay:
    """Gate logits ``[tokens, C]`` of each layer, float32, as the model computed them under the counts it was given."""

    gate_logits: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


@contextmanager
def replaying(module: nn.Module, counts: Mapping[str, np.ndarray[Any, Any]] | None) -> Iterator[Replay]:
    """While the block runs, ACM layers run the counts they are given, or by their own gates at τ = 0.

    Args:
        module: Holds the ACM layers.
        counts: int32, by layer name, of the shape of the layer's tokens; None for the model's own choice.

    Yields:
        What the gates said.
    """
    replay = Replay()
    with ExitStack() as stack:
        for name, layer in acm_layers(module):
            forced = None if counts is None else torch.from_numpy(counts[name])
            stack.enter_context(running(layer, _Pin(replay, name, layer, forced)))
            stack.callback(_restore_thresholds(layer))
            layer.thresholds = torch.zeros_like(layer.thresholds)
        yield replay


@contextmanager
def running(layer: ACMLayer, watch: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While the block runs, the layer runs on what ``watch`` makes of its tokens and gate logits.

    The layer's own ``run`` is wrapped, for a hook on its gate would not tell apart layers that share one.
    """
    run = layer.run
    vars(layer)["run"] = lambda x, gate_logits: run(x, watch(x, gate_logits))
    try:
        yield
    finally:
        del vars(layer)["run"]


def _restore_thresholds(layer: ACMLayer) -> Any:
    thresholds = layer.thresholds

    def restore() -> None:
        layer.thresholds = thresholds

    return restore


class _Pin:
    def __init__(self, replay: Replay, name: str, layer: ACMLayer, forced: torch.Tensor | None) -> None:
        self._replay, self._name, self._layer, self._forced = replay, name, layer, forced

    def __call__(self, _x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._replay.gate_logits[self._name] = logits.detach().reshape(-1, logits.shape[-1]).cpu().numpy()
        if self._forced is None:
            return logits
        choice = self._forced.reshape(logits.shape[:-1]).long().to(logits.device) - self._layer.spec.min_learners
        return torch.nn.functional.one_hot(choice, logits.shape[-1]).float()
