"""The gate: scores how many learners a token needs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acm_export.modules.activations import activation_fn
from acm_export.modules.float32 import keeping_float32
from acm_export.modules.gate_logits import DTYPES, gate_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Gate(nn.Module):
    """One or more linear maps, optionally with an activation between them; always float32.

    Routing must not depend on the dtype of the model, and gates are about 1% of its FLOPs, so parameters stay float32
    through ``.half()`` and ``.to(dtype)``, and inputs are cast to float32. For half-precision inference on an
    NVIDIA GPU, a gate with one linear map is one kernel that reads x once (modules/gate_logits.py).

    Args:
        dims: Input width, hidden widths, number of choices: ``(D, ..., C)``.
        activation: Activation between the linear maps; ``identity`` for none.
    """

    def __init__(self, dims: Sequence[int], activation: str = "identity") -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.activation = activation
        self.linears = nn.ModuleList(nn.Linear(a, b, dtype=torch.float32) for a, b in pairwise(dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Score tokens ``[..., D]`` of any float dtype: gate logits ``[..., C]``, float32."""
        if self._runs_as_one_kernel(x):
            scores: torch.Tensor = gate_logits(x, self.linears[0].weight, self.linears[0].bias)
            return scores
        z = self.linears[0](x.float())
        for linear in self.linears[1:]:
            z = linear(activation_fn(self.activation)(z))
        return torch.as_tensor(z)

    def _runs_as_one_kernel(self, x: torch.Tensor) -> bool:
        if torch.compiler.is_exporting():  # exported programs use ordinary ops
            return False
        if len(self.linears) > 1 or not x.is_cuda or x.dtype not in DTYPES:
            return False
        return not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters())))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Gate:
        move: Any = super()._apply  # torch does not annotate it
        move(keeping_float32(fn), recurse)
        return self
