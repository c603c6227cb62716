"""Find the module that takes the padding mask of the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.surgery.convention import forward_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from acm_export.surgery.interface import InputSpec

_MASK = "attention_mask"


def masked_module(model: nn.Module, inputs: Iterable[InputSpec]) -> str | None:
    """Qualified name of the module whose ``forward`` takes an ``attention_mask`` of shape [batch, tokens].

    That is the model itself if it reads tokens and nothing else; its text tower if it also reads images; its encoder if
    it also has a decoder, or if it reads a waveform, whose mask it reduces to tokens.

    Args:
        model: Model of ``transformers``.
        inputs: Inputs of the model.

    Returns:
        The name, empty for the model itself; None if the model takes no such mask.
    """
    names = {spec.name for spec in inputs}
    if "pixel_values" in names and _MASK in names:
        return _path(model, getattr(model, "text_model", None))
    if "input_ids" in names and "decoder_input_ids" not in names:
        return "" if _MASK in forward_parameters(model) else None
    if "input_values" in names or (_MASK in names and names & {"input_ids", "input_features"}):
        return _path(model, _encoder(model))
    return None


def _encoder(model: nn.Module) -> nn.Module | None:
    """The encoder of a model or of its base model; SEW's shortens the tokens after the mask was applied."""
    if hasattr(getattr(model, "config", None), "squeeze_factor"):
        return None
    base = getattr(model, "base_model", model)
    return getattr(base, "encoder", None)


def _path(model: nn.Module, module: nn.Module | None) -> str | None:
    if module is None or _MASK not in forward_parameters(module):
        return None
    return next((name for name, part in model.named_modules() if part is module), None)
