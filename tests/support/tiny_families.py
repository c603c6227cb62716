"""A small random model of every supported architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers
from tiny_models import randomize
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from acm_export.surgery import (
    PlacedLayer,
    family_of,
    find_sites,
    install_acm_layers,
    interface_of,
    select_sites,
    spec_for,
)

if TYPE_CHECKING:
    from acm_export.modules import ACMSpec
    from acm_export.surgery import ModelFamily, ModelInterface, Site

_IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 5}
_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
_AUDIO = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 4,
    "vocab_size": 6,
}
_WHISPER = {
    "d_model": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_BERT = {"vocab_size": 20, "max_position_embeddings": 40}


def _bert(architecture: str, **settings: Any) -> Any:
    return getattr(transformers, architecture)(transformers.BertConfig(**(_SIZES | _BERT | settings)))


def _wav2vec2(architecture: str, **settings: Any) -> Any:
    return getattr(transformers, architecture)(transformers.Wav2Vec2Config(**(_SIZES | _AUDIO | settings)))


def whisper_config() -> Any:
    """Return the config of the encoder and of the models that contain it."""
    return transformers.WhisperConfig(**_WHISPER)


_XLS_R = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
_ADAPTERS = {"add_adapter": True, "num_adapter_layers": 1, "adapter_attn_dim": 4}
MAKE = {
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**_SIZES, **_IMAGES)),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**_SIZES, **_IMAGES)),
    "deit base": lambda: transformers.DeiTModel(transformers.DeiTConfig(**_SIZES, **_IMAGES)),
    "bert": lambda: _bert("BertModel"),
    "bert, FFN in chunks": lambda: _bert("BertModel", chunk_size_feed_forward=4),
    "bert, causal": lambda: _bert("BertModel", is_decoder=True),
    "bert sequences": lambda: _bert("BertForSequenceClassification"),
    "bert tokens": lambda: _bert("BertForTokenClassification"),
    "bert answers": lambda: _bert("BertForQuestionAnswering"),
    "wav2vec2": lambda: _wav2vec2("Wav2Vec2Model"),
    "wav2vec2 ctc": lambda: _wav2vec2("Wav2Vec2ForCTC"),
    "wav2vec2 ctc, XLS-R": lambda: _wav2vec2("Wav2Vec2ForCTC", **_XLS_R),
    "wav2vec2, XLS-R": lambda: _wav2vec2("Wav2Vec2Model", **_XLS_R),
    "wav2vec2 ctc, adapters": lambda: _wav2vec2("Wav2Vec2ForCTC", **_XLS_R, **_ADAPTERS),
    "whisper": lambda: WhisperEncoder(whisper_config()),
}
"""For each architecture, and each variant of it, a function that makes a dense model of width 12 with two layers."""


def family(model: Any) -> ModelFamily:
    """Return the family of a model."""
    return family_of(model.config.model_type)


def interface(model: Any) -> ModelInterface:
    """Return how to run a model."""
    return interface_of(model)


def dense_model(name: str) -> Any:
    """Make a dense model in evaluation mode with weights that give activations of about 1."""
    model = MAKE[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in key:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif key.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def acm_model(name: str, sites: str = "ffn,o_proj", *, projections: int = 4) -> Any:
    """Make the model with learners at some sites, four or ``projections``; gates spread tokens over all counts."""
    model = dense_model(name)
    chosen = sites_of(model, sites)
    install_sites(model, {site: spec_for(site, 4 if site.kind == "ffn" else projections) for site in chosen})
    randomize(model)
    return model


def sites_of(model: Any, sites: str = "ffn") -> tuple[Site, ...]:
    """Find and select sites of a model."""
    return select_sites(find_sites(model, interface(model)), sites)


def install_sites(model: Any, specs: dict[Site, ACMSpec]) -> None:
    """Install ACM layers at sites."""
    layers = {site.place: PlacedLayer(spec, site.emptied) for site, spec in specs.items()}
    install_acm_layers(model, interface(model), layers)
