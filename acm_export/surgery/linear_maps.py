"""Linear maps in a model: which modules are linear maps of tokens, and their weights in the layout of ``nn.Linear``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LAST, CHANNELS_FIRST = -1, 1


@dataclass(frozen=True)
class MapShape:
    """What a linear module maps.

    Args:
        in_features: Width of its input.
        out_features: Width of its output.
        axis: Axis of the tokens' features: -1, or 1 for a 1x1 convolution.
        reason: Why its weights cannot be read; None if they can.
    """

    in_features: int
    out_features: int
    axis: int = LAST
    reason: str | None = None


@dataclass(frozen=True)
class LinearMap:
    """A linear map at a site: all or a part of the output features of a module.

    Args:
        module: Qualified name of the module.
        in_features: Width of the input.
        out_features: Width of the output, or of the part.
        first: First output feature of the part.
    """

    module: str
    in_features: int
    out_features: int
    first: int = 0

    def weights(self, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight ``[out_features, in_features]`` and bias ``[out_features]`` or None: views, without gradients."""
        module: Any = model.get_submodule(self.module)
        weight: torch.Tensor = module.weight.detach()
        if isinstance(module, Conv1D):
            weight = weight.T
        part = slice(self.first, self.first + self.out_features)
        matrix = weight.flatten(1)[part]
        return matrix, None if module.bias is None else module.bias.detach()[part]


def linear_shape(module: nn.Module) -> MapShape | None:
    """The shape of a module that maps every token by one matrix; None for any other module.

    ``nn.Linear``, transformers' ``Conv1D`` and convolutions of size 1 count. A module that only calls itself linear
    (quantised weights, an overridden forward) gets the reason why its weights cannot be read.
    """
    if isinstance(module, nn.Linear):
        reason = None
        if type(module).forward is not nn.Linear.forward:
            reason = f"is a {type(module).__name__}, whose forward is not that of nn.Linear"
        elif not module.weight.is_floating_point():
            reason = f"has weights of type {module.weight.dtype}: quantised"
        return MapShape(module.in_features, module.out_features, LAST, reason)
    if isinstance(module, Conv1D):
        return MapShape(module.nx, module.nf)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return MapShape(module.in_channels, module.out_channels, CHANNELS_FIRST) if _is_pointwise(module) else None
    named = type(module).__name__
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if "Linear" in named and all(isinstance(size, int) for size in sizes) and not any(module.children()):
        return MapShape(*sizes, LAST, f"is a {named}: quantised or fused weights")  # type: ignore[arg-type]
    return None


def _is_pointwise(module: nn.Conv1d | nn.Conv2d) -> bool:
    plain = all(size == 1 for size in (*module.kernel_size, *module.stride))
    return plain and module.groups == 1 and not any(module.padding)


def computes_linear_map(module: nn.Module) -> bool:
    """Whether a module with another forward still computes ``x W^T + b`` with its own weight and bias.

    One random token is tried; a module on ``meta`` cannot be tried.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point() or weight.is_meta:
        return False
    generator = torch.Generator().manual_seed(0)
    token = torch.randn(1, weight.shape[1], generator=generator).to(weight)
    try:
        with torch.no_grad():
            return torch.allclose(module(token), nn.functional.linear(token, weight, bias), atol=1e-5)
    except (RuntimeError, TypeError, ValueError):
        return False
