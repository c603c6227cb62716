"""Random example inputs for a model of a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.surgery import InputSpec, ModelFamily


def example_inputs(
    model: PreTrainedModel, family: ModelFamily, batch: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Make random inputs: standard normal floats, integers below their bound, and masks.

    Args:
        model: Model whose config determines the shapes.
        family: Family of the model.
        batch: Number of samples.
        seed: Seed of the values.

    Returns:
        Inputs by name. The first sample has no padding, and each later one has more; padding has random values too.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = {"batch": batch, **family.lengths(model.config)}
    return {spec.name: _random(spec, lengths, generator) for spec in family.inputs(model.config)}


def dynamic_axes(model: PreTrainedModel, family: ModelFamily) -> dict[str, dict[int, str]]:
    """Names of the dynamic axes by input and axis."""
    return {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in family.inputs(model.config)
    }


def _random(spec: InputSpec, lengths: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [lengths[dim] if isinstance(dim, str) else dim for dim in spec.shape]
    if spec.below is None:
        return torch.randn(shape, generator=generator)
    if spec.name == "attention_mask":
        batch, length = shape
        valid = length - torch.arange(batch) * length // (2 * batch)
        return (torch.arange(length) < valid[:, None]).long()
    return torch.randint(spec.below, shape, generator=generator)
