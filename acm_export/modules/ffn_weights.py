"""The weights of a dense feed-forward network, whatever modules hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FFNWeights:
    """Weights in the layout of ``nn.Linear``, as views of the model's parameters.

    The network computes ``act(x W1^T + b1) W2^T + b2``, or ``(act(x W1^T + b1) * (x V1^T + c1)) W2^T + b2`` if it is
    gated. A missing bias is None.

    Args:
        w1: ``[width, D]``.
        b1: ``[width]``.
        w2: ``[D, width]``.
        b2: ``[D]``.
        v1: ``[width, D]``, the branch that multiplies the activation; None unless the FFN is gated.
        c1: ``[width]``.
    """

    w1: torch.Tensor
    b1: torch.Tensor | None
    w2: torch.Tensor
    b2: torch.Tensor | None
    v1: torch.Tensor | None = None
    c1: torch.Tensor | None = None
