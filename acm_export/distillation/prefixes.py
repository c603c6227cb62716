"""The learners of an ACM layer with gradients, for training: every prefix, or the prefix that each token chose.

The layer's own forward runs the operator, which skips idle learners and has no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.modules.activations import activation_fn

if TYPE_CHECKING:
    from acm_export.modules import ACMLayer


def hidden_values(layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    """Hidden values ``[..., N, h]`` of all learners for tokens ``[..., D]``."""
    spec = layer.spec
    hidden = activation_fn(spec.activation)(x @ layer.w1 + layer.b1)
    return hidden.reshape(*hidden.shape[:-1], spec.num_learners, spec.hidden_dim)


def prefix_outputs(layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
    """What each choice of the gate outputs: the sums of learners 1..k, k = ``min_learners``..N.

    Args:
        layer: Whose learners run.
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
    """Sum over the choices of choice × prefix output, without making every prefix.

    Args:
        layer: Whose learners run.
        x: Tokens ``[..., D]``.
        choice: ``[..., C]``, one-hot in value; its gradient may be that of something softer.

    Returns:
        ``[..., D]``.
    """
    runs = learners_run(choice, layer.spec.min_learners).to(x.dtype)
    hidden = hidden_values(layer, x) * runs.unsqueeze(-1)
    return hidden.flatten(-2) @ layer.w2 + choice.to(x.dtype) @ layer.b2[layer.spec.min_learners :]


def learners_run(choice: torch.Tensor, min_learners: int) -> torch.Tensor:
    """``[..., N]``: 1 for each learner that a choice ``[..., C]`` runs, 0 for the others, linear in the choice."""
    chosen_or_later = choice.flip(-1).cumsum(-1).flip(-1)
    always = chosen_or_later[..., :1].expand(*choice.shape[:-1], min_learners)
    return torch.cat((always, chosen_or_later[..., 1:]), -1)
