"""The supported transformers: one table entry per family.

An entry says what a survey of the model cannot find out (docs/families.md). To add a family, add an entry to
:data:`FAMILIES`, and a small configuration to ``tests/support/tiny_families.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import CheckpointError
from acm_export.surgery.family import ModelFamily
from acm_export.surgery.interface import InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig

_EXAMPLE_TOKENS = 32


def _images(config: PretrainedConfig) -> tuple[InputSpec, ...]:
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return (InputSpec("pixel_values", ("batch", config.num_channels, height, width)),)


def _text(config: PretrainedConfig) -> tuple[InputSpec, ...]:
    bounds = {"input_ids": config.vocab_size, "attention_mask": 2, "token_type_ids": config.type_vocab_size}
    return tuple(InputSpec(name, ("batch", "tokens"), "int64", below) for name, below in bounds.items())


def _audio(config: PretrainedConfig) -> tuple[InputSpec, ...]:
    """Samples, and a mask if the model was trained with one, that is, if its feature encoder uses layer norm."""
    values = InputSpec("input_values", ("batch", "samples"))
    if config.feat_extract_norm != "layer":
        return (values,)
    return (values, InputSpec("attention_mask", ("batch", "samples"), "int64", 2))


def _spectrograms(config: PretrainedConfig) -> tuple[InputSpec, ...]:
    """Whisper's encoder takes a fixed length: two frames per position, because its second convolution has stride 2."""
    return (InputSpec("input_features", ("batch", config.num_mel_bins, 2 * config.max_source_positions)),)


def _text_lengths(config: PretrainedConfig) -> Mapping[str, int]:
    return {"tokens": min(_EXAMPLE_TOKENS, config.max_position_embeddings)}


def _text_bounds(config: PretrainedConfig) -> Mapping[str, tuple[int, int | None]]:
    return {"tokens": (1, config.max_position_embeddings)}


def _audio_lengths(config: PretrainedConfig) -> Mapping[str, int]:
    return {"samples": _samples(config, _EXAMPLE_TOKENS)}


def _audio_bounds(config: PretrainedConfig) -> Mapping[str, tuple[int, int | None]]:
    return {"samples": (_samples(config, 1), None)}


def _samples(config: PretrainedConfig, tokens: int) -> int:
    """Smallest number of samples that the convolutions turn into this many tokens."""
    samples = tokens
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _audio_tokens(config: PretrainedConfig, samples: int) -> int:
    tokens = samples
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        tokens = max((tokens - kernel) // stride + 1, 0)
    for _ in range(config.num_adapter_layers if config.add_adapter else 0):
        tokens = (tokens - 1) // config.adapter_stride + 1
    return tokens


def _vision(model_type: str, class_prefix: str) -> ModelFamily:
    """ViT and DeiT."""
    return ModelFamily(
        model_type=model_type,
        outputs={f"{class_prefix}ForImageClassification": ("logits",), f"{class_prefix}Model": ("last_hidden_state",)},
        inputs=_images,
        stored_names={
            r"\bencoder\.layer\.": "layers.",
            r"\.attention\.attention\.query\.": ".attention.q_proj.",
            r"\.attention\.attention\.key\.": ".attention.k_proj.",
            r"\.attention\.attention\.value\.": ".attention.v_proj.",
            r"\.attention\.output\.dense\.": ".attention.o_proj.",
            r"\.intermediate\.dense\.": ".mlp.fc1.",
            r"(\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
        },
        optional=("classifier.", "pooler."),
    )


_BERT = ModelFamily(
    model_type="bert",
    outputs={
        "BertModel": ("last_hidden_state",),
        "BertForSequenceClassification": ("logits",),
        "BertForTokenClassification": ("logits",),
        "BertForQuestionAnswering": ("start_logits", "end_logits"),
    },
    inputs=_text,
    stored_names={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    optional=("classifier.", "qa_outputs.", "cls.", "pooler.", "embeddings.position_ids"),
    lengths=_text_lengths,
    bounds=_text_bounds,
    masked="",
    read_as=dict.fromkeys(("BertForMaskedLM", "BertForPreTraining"), "BertModel"),
)

_WAV2VEC2 = ModelFamily(
    model_type="wav2vec2",
    outputs={"Wav2Vec2ForCTC": ("logits",), "Wav2Vec2Model": ("last_hidden_state",)},
    inputs=_audio,
    stored_names={
        r"\.conv\.weight_g$": ".conv.parametrizations.weight.original0",
        r"\.conv\.weight_v$": ".conv.parametrizations.weight.original1",
    },
    optional=("lm_head.", "quantizer.", "project_q.", "project_hid.", "masked_spec_embed"),
    lengths=_audio_lengths,
    bounds=_audio_bounds,
    tokens=_audio_tokens,
    masked="encoder",
    read_as={"Wav2Vec2ForPreTraining": "Wav2Vec2Model"},
    training_only=("masked_spec_embed",),
)

_WHISPER = ModelFamily(
    model_type="whisper",
    outputs={"WhisperEncoder": ("last_hidden_state",)},
    inputs=_spectrograms,
    stored_names={r"^(?:model\.)?encoder\.": ""},
    optional=("decoder.", "proj_out."),
    read_as=dict.fromkeys(("WhisperModel", "WhisperForConditionalGeneration"), "WhisperEncoder"),
)

FAMILIES: Mapping[str, ModelFamily] = {
    family.model_type: family for family in (_vision("vit", "ViT"), _vision("deit", "DeiT"), _BERT, _WAV2VEC2, _WHISPER)
}


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a ``model_type``.

    Args:
        model_type: Model type, as in ``config.json``.

    Raises:
        CheckpointError: The family is not supported; the message lists the supported ones.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise CheckpointError(
        f"model_type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
        "to add a family, write one table entry: docs/families.md, acm_export/surgery/families.py",
    )
