"""Mark padding for the ACM layers of a model, so that padding tokens run ``min_learners``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from acm_export.modules import ACMLayer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from acm_export.surgery.interface import ModelInterface

MASK = "attention_mask"


def mark_padding(model: nn.Module, interface: ModelInterface) -> None:
    """Pass the attention mask of every forward pass to the ACM layers of a model.

    Does nothing if no module of the model takes a mask with the shape of the tokens. Copies and exports of the model
    keep this behaviour. Calling it again has no effect.

    Args:
        model: Model whose ACM layers are installed.
        interface: How to run the model.
    """
    if interface.masked is None:
        return
    masked = model.get_submodule(interface.masked)
    if any(isinstance(hook, _SetMask) for hook in masked._forward_pre_hooks.values()):  # noqa: SLF001
        return
    masked.register_forward_pre_hook(_SetMask(), with_kwargs=True)
    masked.register_forward_hook(_ClearMask(), always_call=True)


class _SetMask:
    """Passes the mask to every ACM layer below the module. A class, because a closure is not copied with the module."""

    def __call__(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
        mask: torch.Tensor | None = bound.arguments.get(MASK)
        _set_valid(module, mask.bool() if mask is not None and mask.ndim == 2 else None)


class _ClearMask:
    def __call__(self, module: nn.Module, _args: object, _output: object) -> None:
        _set_valid(module, None)


def _set_valid(module: nn.Module, valid: torch.Tensor | None) -> None:
    for part in module.modules():
        if isinstance(part, ACMLayer):
            part.valid = valid
