"""How far distributions are from the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    import torch


def divergence(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Kullback-Leibler divergence of logits from the teacher's, a mean over all rows that are no padding."""
    each = F.kl_div(
        ours.float().log_softmax(-1), theirs.float().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    return each[valid].mean() if valid is not None and valid.shape == each.shape else each.mean()
