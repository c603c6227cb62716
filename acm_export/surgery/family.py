"""The description of a family of transformers: where ACM layers go, and how to run and export a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from acm_export.surgery.convention import ConventionalInputs, conventional_inputs
from acm_export.surgery.interface import ModelInterface
from acm_export.surgery.output_fields import output_fields
from acm_export.surgery.padding_mask import masked_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.surgery.interface import InputSpec

# Names of the second projection in Llama, Gemma, Phi-3, DINOv2 (modules; files) and T5 v1.1 of transformers.
_GATED = re.compile(
    r"^(?P<site>.*\b(?:mlp|feed_forward|ffn|DenseReluDense))\.(?:gate_proj|gate_up_proj|weights_in|wi_1)\b"
)


@dataclass(frozen=True)
class FFNSite:
    """A feed-forward network inside one transformer layer, as paths relative to that layer.

    Args:
        place: Module that the ACM layer replaces.
        up: Up projection.
        activation: Activation between the projections.
        down: Down projection. Up, activation and down become ``nn.Identity`` if they are outside ``place``.
    """

    place: str
    up: str
    activation: str
    down: str


_MLP = FFNSite(place="mlp", up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2")


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
        layers: Path of the list of transformer layers, relative to the base model.
        num_layers: Name of the config entry with the number of transformer layers.
        ffn: Feed-forward site.
        projections: Paths of the attention projections, by short name (q_proj, k_proj, v_proj, o_proj).
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
    layers: str = "layers"
    num_layers: str = "num_hidden_layers"
    ffn: FFNSite = _MLP
    projections: Mapping[str, str] = field(default_factory=dict)

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

    def layer_path(self, model: PreTrainedModel, index: int) -> str:
        """Qualified name of transformer layer ``index`` in ``model`` (the base model or a model with a head)."""
        return f"{self.base_path(model)}{self.layers}.{index}"


def gated_ffn(names: Iterable[str]) -> str | None:
    """Find a gated feed-forward network (SwiGLU) among modules or weights; returns the name of the first, or None.

    Hidden values of such a network are multiplied by a second up projection, which ACM layers do not have.

    Args:
        names: Names of the modules or weights.
    """
    return next((found["site"] for found in map(_GATED.match, names) if found), None)
