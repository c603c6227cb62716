"""The description of a family of transformers: how to load, run and export a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from acm_export.surgery.interface import ModelInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.surgery.interface import InputSpec


@dataclass(frozen=True)
class ModelFamily:
    """One family of Hugging Face transformers.

    Args:
        model_type: Model type, as in ``config.json``.
        outputs: For each supported architecture, the fields of its output that an export returns.
        inputs: Maps a config to the inputs of a forward pass.
        stored_names: Patterns in the tensor names that transformers writes, and the module names that replace them.
        optional: Prefixes of names, relative to the base model, that a file may contain although the architecture does
            not have them: heads, and buffers of older versions.
        lengths: Maps a config to the length of each dynamic dimension except the batch, for example inputs.
        bounds: Maps a config to the smallest and largest length of its bounded dynamic dimensions.
        tokens: Maps a config and a dynamic length of the input to the number of tokens, if they differ.
        masked: Path, relative to the base model, of the module whose ``forward`` takes an ``attention_mask`` of shape
            [batch, tokens]; empty for the base model itself, None if no module takes one.
        read_as: Architectures of which only a part is loaded, and the architecture of that part.
        training_only: Names, relative to the base model, of parameters that only training uses and a file may lack.
    """

    model_type: str
    outputs: Mapping[str, tuple[str, ...]]
    inputs: Callable[[PretrainedConfig], tuple[InputSpec, ...]]
    stored_names: Mapping[str, str]
    optional: tuple[str, ...]
    lengths: Callable[[PretrainedConfig], Mapping[str, int]] = lambda _config: {}
    bounds: Callable[[PretrainedConfig], Mapping[str, tuple[int, int | None]]] = lambda _config: {}
    tokens: Callable[[PretrainedConfig, int], int] = lambda _config, length: length
    masked: str | None = None
    read_as: Mapping[str, str] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()

    def interface(self, model: PreTrainedModel) -> ModelInterface:
        """How to run a model of the family."""
        config = model.config
        masked = None if self.masked is None else f"{self.base_path(model)}{self.masked}".rstrip(".")
        return ModelInterface(
            inputs=self.inputs(config),
            outputs=self.outputs.get(type(model).__name__, ()),
            lengths=self.lengths(config),
            bounds=self.bounds(config),
            masked=masked,
            tokens=partial(self.tokens, config),
        )

    def base_path(self, model: PreTrainedModel) -> str:
        """Prefix of the base model's modules in ``model``: for example ``"vit."``, or the empty string."""
        prefix = model.base_model_prefix
        return f"{prefix}." if hasattr(model, prefix) else ""
