"""Tensors that stay float32 when a model is moved to another dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def keeping_float32(fn: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Wrap the function that ``Module.to``/``half``/``cuda`` applies: float32 tensors change device but not dtype.

    Args:
        fn: Function given to ``torch.nn.Module._apply``.

    Returns:
        A function that applies only the device change of ``fn`` to float32 tensors.
    """

    def apply(tensor: torch.Tensor) -> torch.Tensor:
        moved = fn(tensor)
        if tensor.dtype == torch.float32 and moved.dtype != torch.float32:
            return tensor.to(moved.device)
        return moved

    return apply
