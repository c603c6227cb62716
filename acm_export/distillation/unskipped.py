"""Warn of ACM layers that the padding mask does not fit, so that they spend learners on padding."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from acm_export.base.documentation import page
from acm_export.base.errors import AcmWarning
from acm_export.modules import acm_layers
from acm_export.modules.evaluating import evaluating
from acm_export.surgery.sites import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from acm_export.modules import ACMLayer

COMPARED_SAMPLES = 3


def warn_of_unskipped_padding(student: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
    """Run a few samples, and warn if the mask has another shape than the tokens of an ACM layer.

    The shapes are compared where the number of samples differs from that of tokens: a layer that sees
    ``[tokens, batch]`` fits the mask by chance where they are equal.

    Args:
        student: Model with ACM layers.
        inputs: Inputs of a batch by name, with the mask.
    """
    size = min(len(value) for value in inputs.values())
    for count in range(min(size, COMPARED_SAMPLES), 0, -1):
        shapes = _shapes(student, {name: value[:count] for name, value in inputs.items()})
        masks = {valid for _, valid in shapes.values()}
        if all(rows != columns for rows, columns in masks):
            break
    unskipped = [name for name, (tokens, valid) in shapes.items() if tokens != valid]
    if unskipped:
        tokens, valid = shapes[unskipped[0]]
        warnings.warn(
            f"padding is not skipped in {abridged(unskipped)}: the mask is {list(valid)}, and the layer sees tokens "
            f"{list(tokens)}; it must see [batch, tokens] ({page('families.md')}, Padding)",
            AcmWarning,
            stacklevel=2,
        )


_Shape = tuple[int, ...]


def _shapes(student: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, tuple[_Shape, _Shape]]:
    """Shapes of tokens and mask in each layer below the module that takes the mask."""
    found: dict[str, tuple[_Shape, _Shape]] = {}

    def listen(name: str) -> Callable[[ACMLayer, tuple[torch.Tensor, ...]], None]:
        def hook(layer: ACMLayer, args: tuple[torch.Tensor, ...]) -> None:
            if layer.valid is not None:
                found[name] = tuple(layer.as_tokens(args[0]).shape[:-1]), tuple(layer.valid.shape)

        return hook

    with ExitStack() as stack, torch.no_grad(), evaluating(student):
        for name, layer in acm_layers(student):
            stack.callback(layer.register_forward_pre_hook(listen(name)).remove)
        student(**inputs)
    return found
