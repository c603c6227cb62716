"""The description of a family of transformers: how to run and export a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from acm_export.surgery.convention import ConventionalInputs, conventional_inputs
from acm_export.surgery.interface import ModelInterface
from acm_export.surgery.output_fields import output_fields
from acm_export.surgery.padding_mask import masked_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from transformers import PretrainedConfig

    from acm_export.surgery.interface import InputSpec


@dataclass(frozen=True)
class ModelFamily:
    """What the convention cannot tell about the models of one ``model_type``; every field but the first is optional.

    Args:
        model_type: Model type, as in ``config.json``.
        inputs: Maps a config to the inputs of a forward pass.
        outputs: For each architecture, the fields of its output that an export returns.
        lengths: Maps a config to the length of each dynamic dimension except the batch, for example inputs.
        bounds: Maps a config to the smallest and largest length of its bounded dynamic dimensions.
        tokens: Maps a config and a dynamic length of the input to the number of tokens, if they differ.
        masked: Path, relative to the base model, of the module whose ``forward`` takes an ``attention_mask`` of shape
            [batch, tokens]; empty for the base model itself.
        default_part: Part that is loaded from a folder of the whole model unless another one is named.
        unused: Prefixes of names, relative to the base model, that a file may contain although the model does not use
            them, without a warning.
        training_only: Names, relative to the base model, of parameters that only training uses and a file may lack.
    """

    model_type: str
    inputs: Callable[[PretrainedConfig], tuple[InputSpec, ...]] | None = None
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lengths: Callable[[PretrainedConfig], Mapping[str, int]] | None = None
    bounds: Callable[[PretrainedConfig], Mapping[str, tuple[int, int | None]]] | None = None
    tokens: Callable[[PretrainedConfig, int], int] | None = None
    masked: str | None = None
    default_part: str | None = None
    unused: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()

    def interface(self, model: nn.Module) -> ModelInterface:
        """How to run a model of the family: by convention, except for what this entry says.

        Raises:
            CheckpointError: Neither this entry nor the convention tells how to run the model.
        """
        config = getattr(model, "config", None)
        found = ConventionalInputs(self.inputs(config)) if self.inputs else conventional_inputs(model)
        interface = ModelInterface(
            inputs=found.inputs,
            outputs=self.outputs.get(type(model).__name__, ()),
            lengths=self.lengths(config) if self.lengths else found.lengths,
            bounds=self.bounds(config) if self.bounds else found.bounds,
            masked=masked_module(model, found.inputs) if self.masked is None else self._masked_path(model, self.masked),
            tokens=partial(self.tokens, config) if self.tokens else found.tokens,
        )
        return interface if interface.outputs else replace(interface, outputs=output_fields(model, interface))

    def _masked_path(self, model: nn.Module, path: str) -> str:
        return f"{self.base_path(model)}{path}".rstrip(".")

    def base_path(self, model: nn.Module) -> str:
        """Prefix of the base model's modules in ``model``: for example ``"vit."``, or the empty string."""
        prefix = getattr(model, "base_model_prefix", "")
        return f"{prefix}." if prefix and hasattr(model, prefix) else ""
