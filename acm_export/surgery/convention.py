"""How to run a model of ``transformers`` or timm, from what all of them have in common.

Inputs follow from the parameters of ``forward`` and from the config: image size, vocabulary, positions, convolutions.
A family adds only what these do not tell.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from acm_export.base.documentation import page
from acm_export.base.errors import CheckpointError
from acm_export.surgery.interface import InputSpec
from acm_export.surgery.waveforms import samples_for, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXAMPLE_TOKENS = 32
_EXAMPLE_DECODER_TOKENS = 12
_DEFAULT_IMAGE_SIZE = 224
"""Pixels, for models that take images of any size and whose config names none, such as DETR."""

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
_NESTED_IMAGES = ("vision_config", "backbone_config", "encoder")


@dataclass(frozen=True)
class ConventionalInputs:
    """Inputs of a model, and the lengths of their dynamic dimensions.

    Args:
        inputs: Inputs of ``forward``.
        lengths: Length of each dynamic dimension in example inputs, except the batch.
        bounds: Smallest and largest length of the dynamic dimensions; None means no limit.
        tokens: Maps the dynamic length of an input to the number of tokens.
    """

    inputs: tuple[InputSpec, ...] = ()
    lengths: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    tokens: Callable[[int], int] = lambda length: length

    def __add__(self, other: ConventionalInputs) -> ConventionalInputs:
        return ConventionalInputs(
            self.inputs + other.inputs, {**self.lengths, **other.lengths}, {**self.bounds, **other.bounds}, self.tokens
        )


def conventional_inputs(model: nn.Module) -> ConventionalInputs:
    """Inputs of a model by convention.

    Args:
        model: Model of ``transformers`` (with ``config`` and ``main_input_name``) or timm (with ``pretrained_cfg``).

    Raises:
        CheckpointError: Its inputs are of a kind that the convention does not cover.
    """
    if (described := getattr(model, "conventional_inputs", None)) is not None:
        found: ConventionalInputs = described()
        return found
    if not hasattr(model, "config"):
        return _timm_images(model)
    names, config = forward_parameters(model), model.config
    inputs = _main_inputs(model, names, config)
    if "decoder_input_ids" in names and getattr(config, "is_encoder_decoder", False):
        inputs += decoder_tokens(config)
    return inputs


def forward_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's ``forward``."""
    return tuple(inspect.signature(module.forward).parameters)


def text_config(config: Any) -> Any:  # Any: the configs of transformers have no common fields
    """The part of a config that describes the text."""
    return getattr(config, "text_config", None) or config


def _main_inputs(model: nn.Module, names: tuple[str, ...], config: Any) -> ConventionalInputs:
    main = getattr(model, "main_input_name", None)
    if main == "input_ids" and main in names:
        text = _text(model, names, text_config(config))
        return text + _images(config) if _has_two_towers(config) and "pixel_values" in names else text
    if main == "pixel_values":
        return _images(config)
    if main == "input_values" and hasattr(config, "conv_stride"):
        return _waveforms(config, names)
    if main in ("input_values", "input_features") and (spectrogram := _spectrograms(main, names, config)):
        return spectrogram
    raise CheckpointError(
        f"the inputs of {type(model).__name__} (main input: {main!r}) do not follow from its config",
        f"describe them with acm_export.register_family: {page('families.md')}",
    )


def _has_two_towers(config: Any) -> bool:
    """Whether images are an input of their own (CLIP), and not tokens within the text (Llava)."""
    towers = all(getattr(config, name, None) is not None for name in ("text_config", "vision_config"))
    return towers and not any(hasattr(config, name) for name in ("image_token_id", "image_token_index"))


def _images(config: Any) -> ConventionalInputs:
    size, channels = _of_images(config, "image_size"), _of_images(config, "num_channels")
    height, width = size if isinstance(size, (list, tuple)) else (size or _DEFAULT_IMAGE_SIZE,) * 2
    frames = getattr(config, "num_frames", None)
    shape = (*([frames] if frames else []), channels or 3, height, width)
    return ConventionalInputs((InputSpec("pixel_values", ("batch", *shape)),))


def _of_images(config: Any, name: str) -> Any:
    nested = (getattr(config, part, None) for part in _NESTED_IMAGES)
    return next((value for c in (config, *nested) if (value := getattr(c, name, None)) is not None), None)


def _timm_images(model: nn.Module) -> ConventionalInputs:
    described = getattr(model, "pretrained_cfg", None)
    if not isinstance(described, dict) or "input_size" not in described:
        raise CheckpointError(
            f"{type(model).__name__} has neither a config of transformers nor a pretrained_cfg of timm",
            "export it with example inputs: acm_export.export(module, example_inputs, output)",
        )
    size = next((s for m in model.modules() if (s := getattr(m, "img_size", None)) is not None), None)
    channels, height, width = described["input_size"]
    height, width = (size if isinstance(size, (list, tuple)) else (size, size)) if size else (height, width)
    stem = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = stem.in_channels if stem is not None and stem.groups == 1 else channels
    return ConventionalInputs((InputSpec("x", ("batch", channels, height, width)),))


def _text(model: nn.Module, names: tuple[str, ...], config: Any) -> ConventionalInputs:
    below = {"input_ids": _vocabulary(config)}
    if "attention_mask" in names:
        below["attention_mask"] = 2
    if "token_type_ids" in names and (getattr(config, "type_vocab_size", None) or 0) > 1:
        below["token_type_ids"] = config.type_vocab_size
    pad = getattr(config, "pad_token_id", None)
    specs = (
        InputSpec(name, ("batch", "tokens"), "int64", bound, pad if name == "input_ids" else None)
        for name, bound in below.items()
    )
    limit = _max_tokens(model, config)
    return ConventionalInputs(
        tuple(specs), {"tokens": min(EXAMPLE_TOKENS, limit or EXAMPLE_TOKENS)}, {"tokens": (1, limit)}
    )


def _vocabulary(config: Any) -> int:
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int):  # CANINE reads characters
        raise CheckpointError(
            f"the {type(config).__name__} has vocab_size {size}; the tokens of its model do not follow from its config",
            f"describe its inputs with acm_export.register_family: {page('families.md')}",
        )
    return size


def _max_tokens(model: nn.Module, config: Any) -> int | None:
    """Largest number of tokens; models like RoBERTa number positions from ``padding_idx + 1``."""
    found = (getattr(config, name, None) for name in _POSITIONS)
    limit = next((value for value in found if isinstance(value, int) and value > 0), None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def decoder_tokens(config: Any) -> ConventionalInputs:
    """The tokens of a decoder that is run with the right answer as its input (teacher forcing)."""
    config = getattr(config, "decoder", None) or config
    found = (getattr(config, name, None) for name in ("max_target_positions", *_POSITIONS))
    limit = next((value for value in found if isinstance(value, int) and value > 0), None)
    length = min(_EXAMPLE_DECODER_TOKENS, limit or _EXAMPLE_DECODER_TOKENS)
    pad = getattr(config, "pad_token_id", None)
    spec = InputSpec("decoder_input_ids", ("batch", "decoder_tokens"), "int64", _vocabulary(config), pad)
    return ConventionalInputs((spec,), {"decoder_tokens": length}, {"decoder_tokens": (1, limit)})


def _waveforms(config: Any, names: tuple[str, ...]) -> ConventionalInputs:
    """Samples, and a mask if the model was trained with one, that is, unless its feature encoder uses group norm."""
    inputs: tuple[InputSpec, ...] = (InputSpec("input_values", ("batch", "samples")),)
    if getattr(config, "feat_extract_norm", "layer") == "layer" and "attention_mask" in names:
        inputs += (InputSpec("attention_mask", ("batch", "samples"), "int64", 2),)
    return ConventionalInputs(
        inputs,
        {"samples": samples_for(config, EXAMPLE_TOKENS)},
        {"samples": (samples_for(config, 1), None)},
        partial(tokens_of, config),
    )


def _spectrograms(main: str, names: tuple[str, ...], config: Any) -> ConventionalInputs | None:
    bands = getattr(config, "num_mel_bins", None)
    if main == "input_features" and bands and (positions := getattr(config, "max_source_positions", None)):
        if hasattr(config, "input_feat_per_channel"):  # Speech2Text: any number of frames
            return _frames(config.input_feat_per_channel, names)
        # Whisper: two frames per position, because the second convolution of the encoder has stride 2.
        return ConventionalInputs((InputSpec(main, ("batch", bands, 2 * positions)),))
    if main == "input_values" and bands and (frames := getattr(config, "max_length", None)):
        return ConventionalInputs((InputSpec(main, ("batch", frames, bands)),))
    if main == "input_features" and (width := getattr(config, "feature_projection_input_dim", None)):
        return _frames(width, names)
    return None


def _frames(width: int, names: tuple[str, ...]) -> ConventionalInputs:
    inputs: tuple[InputSpec, ...] = (InputSpec("input_features", ("batch", "frames", width)),)
    if "attention_mask" in names:
        inputs += (InputSpec("attention_mask", ("batch", "frames"), "int64", 2),)
    return ConventionalInputs(inputs, {"frames": EXAMPLE_TOKENS}, {"frames": (1, None)})
