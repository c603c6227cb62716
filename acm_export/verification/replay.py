"""Run the PyTorch model with given learner counts, and record what its own gates would have chosen."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from torch import nn

    from acm_export.modules import ACMLayer


@dataclass
class Replay:
    """Gate logits ``[tokens, C]`` of each layer, float32, recorded while the given counts ran."""

    gate_logits: dict[str, np.ndarray] = field(default_factory=dict)


@contextmanager
def replay_counts(module: nn.Module, counts: Mapping[str, np.ndarray] | None) -> Iterator[Replay]:
    """While the block runs, ACM layers run the given counts, or follow their own gates at τ = 0.

    Args:
        module: Module with ACM layers.
        counts: Learner counts of each layer, int32, in the shape of the layer's tokens; None to follow the gates.

    Yields:
        The gate logits, filled in as the model runs.
    """
    replay = Replay()
    with ExitStack() as stack:
        for name, layer in acm_layers(module):
            forced = None if counts is None else torch.from_numpy(counts[name])
            stack.enter_context(override_gate_logits(layer, _FixedCounts(replay, name, layer, forced)))
            stack.callback(_restore_thresholds(layer))
            layer.thresholds = torch.zeros_like(layer.thresholds)
        yield replay


@contextmanager
def override_gate_logits(
    layer: ACMLayer, override: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """While the block runs, the layer uses the gate logits that ``override`` returns.

    This wraps the layer's ``run``, because a hook on a gate cannot distinguish layers that share it.

    Args:
        layer: ACM layer.
        override: Function of the layer's tokens and gate logits that returns the gate logits to use.
    """
    run = layer.run
    vars(layer)["run"] = lambda x, gate_logits: run(x, override(x, gate_logits))
    try:
        yield
    finally:
        del vars(layer)["run"]


def _restore_thresholds(layer: ACMLayer) -> Callable[[], None]:
    thresholds = layer.thresholds

    def restore() -> None:
        layer.thresholds = thresholds

    return restore


class _FixedCounts:
    """Records gate logits, and replaces them with logits that select the given counts."""

    def __init__(self, replay: Replay, name: str, layer: ACMLayer, forced: torch.Tensor | None) -> None:
        self._replay, self._name, self._layer, self._forced = replay, name, layer, forced

    def __call__(self, _x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._replay.gate_logits[self._name] = logits.detach().reshape(-1, logits.shape[-1]).cpu().numpy()
        if self._forced is None:
            return logits
        choice = self._forced.reshape(logits.shape[:-1]).long().to(logits.device) - self._layer.spec.min_learners
        return torch.nn.functional.one_hot(choice, logits.shape[-1]).float()
