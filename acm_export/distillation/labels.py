"""From the errors of every prefix to the choice that a gate is to learn (pure arithmetic)."""

from __future__ import annotations

import torch

IMPROVEMENT = 1.2
"""A learner is worth running where it divides the error by at least this (arXiv 2312.10193, Method)."""


def squared_errors(prefixes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance ``[tokens, C]`` of prefix outputs ``[tokens, C, D]`` from the right ones ``[tokens, D]``."""
    return (prefixes - target.unsqueeze(1)).square().sum(-1)


def relative_labels(errors: torch.Tensor, factor: float = IMPROVEMENT) -> torch.Tensor:
    """The paper's labels: the first choice after which one more learner improves by less than the factor.

    Args:
        errors: Distances d(n) ``[tokens, C]``, not squared.
        factor: d(n) / d(n + 1) from which on a learner is worth it.

    Returns:
        Indices of choices ``[tokens]``, the last one where every learner is worth it.
    """
    enough = errors[:, :-1] < factor * errors[:, 1:]
    last = enough.new_ones((len(errors), 1))
    return torch.cat((enough, last), 1).int().argmax(1)


def gains(squared: torch.Tensor) -> torch.Tensor:
    """What each learner is worth: slopes of the convex hull of squared errors ``[tokens, C]``.

    Returns:
        ``[tokens, C - 1]``, never increasing along a token: at a price between two of them, the learners above it are
        those that minimise error + price × learners.
    """
    choices = squared.shape[1]
    drops = torch.full((len(squared), choices - 1), float("-inf"), device=squared.device, dtype=squared.dtype)
    for n in range(choices - 1):  # learner n + 1: the best of all chords that begin before it and end with it or later
        begins, ends = torch.arange(n + 1, device=squared.device), torch.arange(n + 1, choices, device=squared.device)
        chords = (squared[:, begins, None] - squared[:, None, ends]) / (ends[None, :] - begins[:, None])
        drops[:, n] = chords.amax(2).amin(1)
    return drops


def priced_labels(gain: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """The choice that minimises error + price × learners.

    Args:
        gain: :func:`gains`, ``[tokens, C - 1]``.
        price: ``[tokens]``.

    Returns:
        Indices of choices ``[tokens]``.
    """
    return (gain > price.unsqueeze(1)).sum(1)
