"""The operator's activations as PyTorch functions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "identity": lambda v: v,
}


def activation_fn(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The PyTorch function of an activation of :data:`acm_export.op.signature.ACTIVATIONS`."""
    return _FUNCTIONS[name]
