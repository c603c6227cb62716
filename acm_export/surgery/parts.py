"""Parts of a model that are run and exported on their own: encoder, decoder, the towers of CLIP."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from acm_export.base.errors import UsageError
from acm_export.modules import acm_layers
from acm_export.surgery.convention import ConventionalInputs, decoder_tokens, forward_parameters
from acm_export.surgery.interface import InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

WHOLE, ENCODER, DECODER = "whole", "encoder", "decoder"
TOWERS = ("vision", "text")


class TeacherForcedDecoder(nn.Module):
    """The decoder of an encoder-decoder model with its head, run on whole sequences and without a cache.

    It is the model with its encoder removed: the output of the encoder is an input, and so are the tokens of the right
    answer (teacher forcing). Token ``t`` of the output is predicted from the tokens up to ``t``.

    Args:
        model: Model with an encoder and a decoder; its encoder is replaced by an identity.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        model.set_submodule(_path_of(model, model.base_model.encoder), nn.Identity())
        self.config = model.config

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> Mapping[str, torch.Tensor]:
        """Run the decoder.

        Args:
            decoder_input_ids: Tokens ``[batch, decoder_tokens]``.
            encoder_hidden_states: Output of the encoder, ``[batch, tokens, width]``.
            attention_mask: Valid tokens of the encoder, ``[batch, tokens]``; by default all.

        Returns:
            ``logits`` of a model with a head, otherwise ``last_hidden_state``.
        """
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        output = self.model(
            encoder_outputs=(encoder_hidden_states,), decoder_input_ids=decoder_input_ids, use_cache=False, **masked
        )
        name = "logits" if "logits" in output else "last_hidden_state"
        return {name: output[name]}

    def conventional_inputs(self) -> ConventionalInputs:
        """The tokens of the decoder, and the output of the encoder: of fixed length if the encoder's is."""
        config: Any = self.config
        positions = getattr(config, "max_source_positions", None)
        tokens: int | str = positions or "tokens"
        inputs: tuple[InputSpec, ...] = (
            InputSpec("encoder_hidden_states", ("batch", tokens, getattr(config, "d_model", config.hidden_size))),
        )
        if tokens == "tokens":
            inputs += (InputSpec("attention_mask", ("batch", tokens), "int64", 2),)
        lengths = {} if positions else {"tokens": 16}
        return decoder_tokens(config) + ConventionalInputs(inputs, lengths, dict.fromkeys(lengths, (1, None)))


def parts_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the parts that :func:`take_part` finds in a model, ``whole`` first."""
    base = getattr(model, "base_model", None)
    parts = [WHOLE]
    if "decoder_input_ids" in forward_parameters(model) and hasattr(base, "encoder"):
        parts += [ENCODER, DECODER]
    parts += [tower for tower in TOWERS if hasattr(model, f"{tower}_model") and _has_towers(model)]
    return tuple(parts)


def take_part(model: nn.Module, part: str) -> nn.Module:
    """Take a part out of a model; the model must not be used afterwards.

    Args:
        model: Whole model, dense or with ACM layers.
        part: ``whole``; ``encoder`` or ``decoder`` of an encoder-decoder model; ``vision`` or ``text`` of a model with
            two towers, with its projection into the common space if the model has one.

    Raises:
        UsageError: The model has no such part; the message lists its parts.
    """
    if part not in (known := parts_of(model)):
        raise UsageError(
            f"this {type(model).__name__} has no part {part!r}; it has {', '.join(known)}", "choose one of these"
        )
    places = dict(model.named_modules())
    taken = _taken(model, part)
    names = {id(module): name for name, module in taken.named_modules()}
    for _, layer in acm_layers(taken):
        layer.emptied = tuple(names[id(places[name])] for name in layer.emptied)
    return taken


def _taken(model: Any, part: str) -> nn.Module:  # Any: a model of transformers, since it has parts
    if part == ENCODER:
        encoder: nn.Module = model.base_model.encoder
        return encoder
    if part == DECODER:
        return TeacherForcedDecoder(model)
    return _tower(model, part) if part in TOWERS else model


def _has_towers(model: nn.Module) -> bool:
    return all(hasattr(model, f"{tower}_model") for tower in TOWERS)


def _tower(model: Any, part: str) -> nn.Module:
    module: nn.Module = getattr(model, f"{part}_model")
    projection = {"vision": "visual_projection", "text": "text_projection"}[part]
    name = f"{type(model).__name__.removesuffix('Model')}{part.title()}ModelWithProjection"
    if not hasattr(model, projection) or not hasattr(transformers, name):
        return module
    config: Any = copy.deepcopy(module.config)
    config.projection_dim = model.config.projection_dim
    with torch.device("meta"):
        tower: nn.Module = getattr(transformers, name)(config)
    tower.set_submodule(f"{part}_model", module)
    tower.set_submodule(projection, getattr(model, projection))
    return tower.eval()


def _path_of(model: nn.Module, part: nn.Module) -> str:
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    return names[id(part)]
