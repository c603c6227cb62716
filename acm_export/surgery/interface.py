"""How to run a model: its inputs and outputs, and the module that takes its padding mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from acm_export.data.batches import GraphInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Args:
        name: Parameter of the model's ``forward``.
        shape: Shape, with names for dynamic dimensions.
        dtype: Name of the numpy dtype.
        below: Exclusive upper bound of an integer input; None for floats.
        padding: Value that marks padding, which example inputs do not contain; None if no value does.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    below: int | None = None
    padding: int | None = None


@dataclass(frozen=True)
class ModelInterface:
    """How to run one model.

    Args:
        inputs: Inputs of ``forward``.
        outputs: Fields of the output that an export returns; empty for all its tensors.
        lengths: Length of each dynamic dimension in example inputs, except the batch.
        bounds: Smallest and largest length of the dynamic dimensions that have bounds; None means no limit.
        masked: Qualified name of the module whose ``forward`` takes an ``attention_mask`` of shape [batch, tokens];
            empty for the model itself, None if no module takes one.
        tokens: Maps the dynamic length of an input to the number of tokens, if they differ.
        sample: Inputs of one sample, with a batch axis, to run instead of random ones; None for random ones.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    lengths: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    masked: str | None = None
    tokens: Callable[[int], int] = lambda length: length
    sample: Mapping[str, torch.Tensor] | None = None

    def data_inputs(self) -> tuple[GraphInput, ...]:
        """Inputs for the reader of data."""
        bounds = dict(self.bounds)
        return tuple(
            GraphInput(spec.name, spec.shape, np.dtype(spec.dtype), spec.below, bounds) for spec in self.inputs
        )

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Names of the dynamic axes by input and axis."""
        return {
            spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
            for spec in self.inputs
        }
