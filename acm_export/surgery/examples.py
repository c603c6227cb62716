"""Example inputs for a model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from acm_export.surgery.interface import InputSpec, ModelInterface


def example_inputs(interface: ModelInterface, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make random inputs: standard normal floats, integers below their bound (no padding), and masks.

    Args:
        interface: How to run the model.
        batch: Number of samples.
        seed: Seed of the values.

    Returns:
        Inputs by name. The first sample has no padding, and each later one has more; padding has random values too.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = {"batch": batch, **interface.lengths}
    return {spec.name: _random(spec, lengths, generator) for spec in interface.inputs}


def unpadded_inputs(model: nn.Module, interface: ModelInterface) -> dict[str, torch.Tensor]:
    """Inputs of one sample, without the padding mask unless ``forward`` requires it; random unless there is a sample.

    Models look at the values of a mask, so that a pass with one cannot run on the device ``meta``. Floats have the
    dtype of the model's weights.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    given = interface.sample or example_inputs(interface, batch=1)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
    parameter = inspect.signature(model.forward).parameters.get(MASK)
    if parameter is None or parameter.default is not inspect.Parameter.empty:
        inputs.pop(MASK, None)
    return inputs


def _random(spec: InputSpec, lengths: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [lengths[dim] if isinstance(dim, str) else dim for dim in spec.shape]
    if spec.below is None:
        return torch.randn(shape, generator=generator)
    if spec.name == MASK:
        batch, length = shape
        valid = length - torch.arange(batch) * length // (2 * batch)
        return (torch.arange(length) < valid[:, None]).long()
    if spec.padding is None or not 0 <= spec.padding < spec.below or spec.below < 2:
        return torch.randint(spec.below, shape, generator=generator)
    values = torch.randint(spec.below - 1, shape, generator=generator)
    return values + (values >= spec.padding)
