"""Differentiable choices of learner prefixes, for training.

The layer's own forward pass runs the operator, which skips idle learners and has no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.modules.activations import activation_fn
from acm_export.modules.gated_learners import margins

if TYPE_CHECKING:
    from acm_export.modules import ACMLayer


def logits_at(gate_logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Logits whose argmax is the operator's choice at a threshold τ.

    Logit k is the sum of margin - τ over the gated learners 1..k. Margins never increase from one learner to the next,
    so these sums are concave in k, and their maximum is where margins fall to τ: training sees exactly the effect of
    changing the threshold.

    Args:
        gate_logits: ``[..., C]``, float32.
        threshold: τ, broadcast to ``[...]``.

    Returns:
        ``[..., C]``; the first logit is 0.
    """
    sums = (margins(gate_logits) - threshold.unsqueeze(-1)).cumsum(-1)
    return torch.cat((sums.new_zeros((*sums.shape[:-1], 1)), sums), -1)


def straight_through(logits: torch.Tensor, *, noise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Gumbel-softmax: a one-hot choice in the forward pass, the gradient of the probabilities in the backward pass.

    Args:
        logits: ``[..., C]``, float32.
        noise: Sample the choice; otherwise it is the argmax.

    Returns:
        The choice, and the probabilities without noise; both ``[..., C]``.
    """
    sampled = logits
    if noise:
        tiny = torch.finfo(logits.dtype).tiny
        uniform = torch.rand_like(logits).clamp(min=tiny, max=1 - torch.finfo(logits.dtype).eps)
        sampled = logits - (-uniform.log()).log()
    soft = sampled.softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, sampled.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft, logits.softmax(-1)


def hidden_values(layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    """Hidden values ``[..., N, h]`` of all learners for tokens ``[..., D]``."""
    spec = layer.spec
    hidden = activation_fn(spec.activation)(x @ layer.w1 + layer.b1)
    if layer.v1 is not None and layer.c1 is not None:
        hidden = hidden * (x @ layer.v1 + layer.c1)
    return hidden.reshape(*hidden.shape[:-1], spec.num_learners, spec.hidden_dim)


def prefix_outputs(layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    """Output of each choice of the gate: the sum of learners 1..k for k = ``min_learners``..N.

    Args:
        layer: Layer whose learners run.
        x: Tokens ``[tokens, D]``.

    Returns:
        ``[tokens, C, D]``.
    """
    spec = layer.spec
    w2 = layer.w2.reshape(spec.num_learners, spec.hidden_dim, spec.model_dim)
    sums = torch.einsum("tnh,nhd->tnd", hidden_values(layer, x), w2).cumsum(1)
    if spec.min_learners == 0:
        sums = torch.cat((torch.zeros_like(sums[:, :1]), sums), 1)
    else:
        sums = sums[:, spec.min_learners - 1 :]
    return sums + layer.b2[spec.min_learners :]


def chosen_output(layer: ACMLayer, x: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Sum over the choices of choice × prefix output, without computing every prefix.

    Args:
        layer: Layer whose learners run.
        x: Tokens ``[..., D]``.
        choice: ``[..., C]``, one-hot; its gradient may be the gradient of the probabilities.

    Returns:
        ``[..., D]``.
    """
    runs = learners_run(choice, layer.spec.min_learners).to(x.dtype)
    hidden = hidden_values(layer, x) * runs.unsqueeze(-1)
    return hidden.flatten(-2) @ layer.w2 + choice.to(x.dtype) @ layer.b2[layer.spec.min_learners :]


def learners_run(choice: torch.Tensor, min_learners: int) -> torch.Tensor:
    """``[..., N]``: 1 for each learner that a choice ``[..., C]`` runs, 0 for the others; linear in the choice."""
    chosen_or_later = choice.flip(-1).cumsum(-1).flip(-1)
    always = chosen_or_later[..., :1].expand(*choice.shape[:-1], min_learners)
    return torch.cat((always, chosen_or_later[..., 1:]), -1)
