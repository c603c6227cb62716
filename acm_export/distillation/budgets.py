"""β of a batch, and what keeps gates from deciding for all tokens alike (pure arithmetic)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.distillation.prefixes import learners_run

if TYPE_CHECKING:
    from collections.abc import Mapping


def sample_budgets(
    choices: Mapping[str, torch.Tensor],
    least: Mapping[str, int],
    costs: Mapping[str, float],
    valid: torch.Tensor | None,
) -> torch.Tensor:
    """β of each sample: learner FLOPs that its choices run ÷ those of all learners.

    Args:
        choices: By layer, one-hot or probabilities ``[batch, ..., C]``.
        least: By layer, ``min_learners``.
        costs: By layer, FLOPs of a learner in any unit.
        valid: ``[batch, tokens]``, False for padding; None where there is none.

    Returns:
        ``[batch]``.
    """
    executed = everything = torch.zeros(())
    for name, choice in choices.items():
        runs = learners_run(choice, least[name])
        executed = executed + costs[name] * per_sample(runs.sum(-1), valid)
        everything = everything + costs[name] * runs.shape[-1]
    return executed / everything


def per_sample(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Means over the tokens of each sample, padding left out: ``[batch, ...]`` to ``[batch]``."""
    if valid is not None and valid.shape == values.shape:
        return (values * valid).sum(1) / valid.sum(1).clamp(min=1)
    return values.reshape(len(values), -1).mean(1)


def negative_entropy(probabilities: Mapping[str, torch.Tensor], valid: torch.Tensor | None) -> torch.Tensor:
    """Of the choices of each sample and layer, negative and ÷ log C, averaged: -1 where all choices are as frequent."""
    terms = []
    for values in probabilities.values():
        if (choices := values.shape[-1]) > 1:
            shares = torch.stack([per_sample(values[..., c], valid) for c in range(choices)], -1)
            entropy = -torch.xlogy(shares, shares.clamp(min=1e-9)).sum(-1)
            terms.append(-entropy.mean() / torch.log(torch.tensor(float(choices))))
    return torch.stack(terms).mean() if terms else torch.zeros(())


def negative_spread(budgets: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between the β ``[batch]`` of two samples, negative."""
    pairs = len(budgets) * (len(budgets) - 1)
    return -(budgets.unsqueeze(0) - budgets.unsqueeze(1)).abs().sum() / max(pairs, 1)
