"""Trace models that clamp float16 activations only after an overflow, as BART, Marian and T5 do.

They ask ``if not torch.isfinite(x).all()`` at run time, and a graph has no such branch; or they choose the limit by
``torch.where(torch.isinf(x).any(), ...)``, a scalar that TensorRT-RTX 1.7 takes for a shape and refuses in float16. The
graph clamps always: without an overflow that changes only values between ``finfo.max - 1000`` and ``finfo.max``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FINITE = (torch.isfinite, torch.Tensor.isfinite)
_INFINITE = (torch.isinf, torch.Tensor.isinf)
_ALL = (torch.all, torch.Tensor.all)
_ANY = (torch.any, torch.Tensor.any)


class AssumeOverflow(TorchFunctionMode):
    """Answers ``isfinite(x).all()`` and ``isinf(x).any()`` as after an overflow, if ``x`` is float16.

    The answer is given to ``bool``, and to ``torch.where`` that chooses between two numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._elements: dict[int, tuple[torch.Tensor, bool]] = {}
        self._answers: dict[int, tuple[torch.Tensor, bool]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or answer for it."""
        if func is torch.Tensor.__bool__ and id(args[0]) in self._answers:
            return self._answers[id(args[0])][1]
        numbers = len(args) == 3 and not any(map(torch.is_tensor, args[1:]))
        if func is torch.where and numbers and id(args[0]) in self._answers:
            return torch.full((), args[1] if self._answers[id(args[0])][1] else args[2])
        result = func(*args, **(kwargs or {}))
        if func in _FINITE + _INFINITE and args and args[0].dtype == torch.float16:
            self._elements[id(result)] = result, func in _INFINITE
        elif func in _ALL + _ANY and args and id(args[0]) in self._elements:
            infinite = self._elements[id(args[0])][1]
            if infinite == (func in _ANY):
                self._answers[id(result)] = result, infinite
        return result
