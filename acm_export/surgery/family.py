"""What is to be known about a family of transformers to put ACM layers into it, run it and export it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.data.batches import GraphInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class FFNSite:
    """A feed-forward network as a triple inside one transformer layer, paths relative to that layer.

    Args:
        place: The module that the ACM layer takes the place of.
        up: Up projection.
        activation: Between the projections.
        down: Down projection. Of the three, those outside ``place`` become ``nn.Identity``.
    """

    place: str
    up: str
    activation: str
    down: str


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Args:
        name: Parameter of the model's ``forward``.
        shape: Names for dynamic dimensions.
        dtype: Of numpy.
        below: Bound of the values of an integer input; those of ``attention_mask`` are ones, then zeros.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    below: int | None = None


@dataclass(frozen=True)
class ModelFamily:
    """One family of Hugging Face transformers.

    Args:
        model_type: As in ``config.json``.
        outputs: For each supported architecture the fields of its output that an export returns.
        layers: Path of the list of transformer layers, relative to the base model.
        num_layers: Name of the config entry that counts them.
        ffn: The feed-forward site.
        projections: Paths of the attention projections by their short name (q_proj, k_proj, v_proj, o_proj).
        inputs: From the config to the inputs of a forward pass.
        stored_names: Patterns in the names that transformers writes, and what the modules are called in their place.
        optional: Beginnings of names, without the base model's, that a file may hold although the architecture does not
            have them: heads, and buffers of older versions.
        lengths: From the config to a length for each dynamic dimension but the batch, for example inputs.
        bounds: From the config to the least and the greatest length of a dynamic dimension, where there are such.
        tokens: From the config and a dynamic length of the input to the tokens that come of it, where these differ.
        masked: Path, relative to the base model, of the module whose ``forward`` takes an ``attention_mask`` of shape
            [batch, tokens]; empty for the base model itself, None where no mask reaches it.
        read_as: Architectures that are read as another, which is a part of them.
        training_only: Names, without the base model's, of parameters that a file may lack, for only training uses them.
    """

    model_type: str
    outputs: Mapping[str, tuple[str, ...]]
    layers: str
    num_layers: str
    ffn: FFNSite
    projections: Mapping[str, str]
    inputs: Callable[[Any], tuple[InputSpec, ...]]
    stored_names: Mapping[str, str]
    optional: tuple[str, ...]
    lengths: Callable[[Any], Mapping[str, int]] = lambda _config: {}
    bounds: Callable[[Any], Mapping[str, tuple[int, int | None]]] = lambda _config: {}
    tokens: Callable[[Any, int], int] = lambda _config, length: length
    masked: str | None = None
    read_as: Mapping[str, str] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()

    def data_inputs(self, config: Any) -> tuple[GraphInput, ...]:
        """Inputs of the model with this config, for the reader of data."""
        lengths = dict(self.bounds(config))
        return tuple(
            GraphInput(spec.name, spec.shape, np.dtype(spec.dtype), spec.below, lengths) for spec in self.inputs(config)
        )

    def base_path(self, model: Any) -> str:
        """What stands before the names of the base model's modules in ``model``: ``"vit."``, or nothing."""
        prefix = model.base_model_prefix
        return f"{prefix}." if hasattr(model, prefix) else ""

    def layer_path(self, model: Any, index: int) -> str:
        """Qualified name of transformer layer ``index`` in ``model`` (the base model or a model with a head)."""
        return f"{self.base_path(model)}{self.layers}.{index}"
