"""How gate logits become a choice of learners in training."""

from __future__ import annotations

import torch

from acm_export.modules.gated_learners import margins


def logits_at(gate_logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Logits whose argmax is the choice that the operator makes at a threshold τ.

    Their differences are margin - τ for each learner. Margins never increase along the learners, so these sums are
    concave and their maximum is where margins fall below τ: training sees what turning the dial will do.

    Args:
        gate_logits: ``[..., C]``, float32.
        threshold: Broadcasts against ``[...]``.

    Returns:
        ``[..., C]``, the first 0.
    """
    sums = (margins(gate_logits) - threshold.unsqueeze(-1)).cumsum(-1)
    return torch.cat((sums.new_zeros((*sums.shape[:-1], 1)), sums), -1)


def straight_through(logits: torch.Tensor, *, noise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Gumbel-softmax: a one-hot choice forward, the gradient of the probabilities backward.

    Args:
        logits: ``[..., C]``, float32.
        noise: Draw the choice; without, it is the argmax.

    Returns:
        The choice and, without noise, the probabilities; both ``[..., C]``.
    """
    drawn = logits
    if noise:
        tiny = torch.finfo(logits.dtype).tiny
        uniform = torch.rand_like(logits).clamp(min=tiny, max=1 - torch.finfo(logits.dtype).eps)
        drawn = logits - (-uniform.log()).log()
    soft = drawn.softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, drawn.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft, logits.softmax(-1)
