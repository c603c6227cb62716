"""Terms of the losses: divergence from the teacher, β of a batch, and diversity of the choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.choices import learners_run

if TYPE_CHECKING:
    from collections.abc import Mapping


def divergence(student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's logits from the teacher's, averaged over rows without padding."""
    rows = F.kl_div(
        student.float().log_softmax(-1), teacher.float().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    return rows[valid].mean() if valid is not None and valid.shape == rows.shape else rows.mean()


def sample_budgets(
    choices: Mapping[str, torch.Tensor],
    min_learners: Mapping[str, int],
    costs: Mapping[str, float],
    valid: torch.Tensor | None,
) -> torch.Tensor:
    """β of each sample: executed learner FLOPs ÷ FLOPs of all learners.

    Args:
        choices: Choices by layer, one-hot or probabilities ``[batch, ..., C]``.
        min_learners: ``min_learners`` by layer.
        costs: FLOPs of one learner by layer, in any unit.
        valid: ``[batch, tokens]``, False for padding; None without padding.

    Returns:
        ``[batch]``.
    """
    executed = total = torch.zeros(())
    for name, choice in choices.items():
        runs = learners_run(choice, min_learners[name])
        executed = executed + costs[name] * per_sample(runs.sum(-1), valid)
        total = total + costs[name] * runs.shape[-1]
    return executed / total


def per_sample(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Means over the tokens of each sample, without padding: ``[batch, ...]`` to ``[batch]``."""
    if valid is not None and valid.shape == values.shape:
        return (values * valid).sum(1) / valid.sum(1).clamp(min=1)
    return values.reshape(len(values), -1).mean(1)


def negative_entropy(probabilities: Mapping[str, torch.Tensor], valid: torch.Tensor | None) -> torch.Tensor:
    """Negative entropy of the choices ÷ log C, averaged over samples and layers; -1 for equally frequent choices."""
    terms = []
    for values in probabilities.values():
        if (choices := values.shape[-1]) > 1:
            shares = torch.stack([per_sample(values[..., c], valid) for c in range(choices)], -1)
            entropy = -torch.xlogy(shares, shares.clamp(min=1e-9)).sum(-1)
            terms.append(-entropy.mean() / torch.log(torch.tensor(float(choices))))
    return torch.stack(terms).mean() if terms else torch.zeros(())


def negative_spread(budgets: torch.Tensor) -> torch.Tensor:
    """Negative mean absolute difference between the β of two samples, from the β ``[batch]`` of a batch."""
    pairs = len(budgets) * (len(budgets) - 1)
    return -(budgets.unsqueeze(0) - budgets.unsqueeze(1)).abs().sum() / max(pairs, 1)
