"""Tiny random models of many architectures, with example inputs: models that people bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Callable

Inputs = dict[str, torch.Tensor]

_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
_IMAGES = {**_SIZES, "image_size": 16, "patch_size": 4, "num_channels": 3}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {**_SIZES, "vocab_size": 20, "max_position_embeddings": 40, **_SPECIAL}
_LLAMA = {**_TEXT, "num_key_value_heads": 1}
_AUDIO = {
    **_SIZES,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 4,
    "vocab_size": 20,
}
_STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
_T5 = {
    "d_model": 12,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 3,
    "vocab_size": 20,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": (2, 2),
    "num_heads": (3, 3),
    "window_size": 4,
    "mlp_ratio": 2.0,
}
_SEQ2SEQ = {
    "d_model": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 24,
}
_WHISPER = {**_SEQ2SEQ, **_SPECIAL, "num_mel_bins": 8, "max_source_positions": 10, "vocab_size": 20}
_DINOV2 = {**_IMAGES, "mlp_ratio": 2}
_SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [8, 16],
    "num_attention_heads": [1, 2],
    "sr_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
}
_MAE_DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}


def _ids(length: int = 10) -> torch.Tensor:
    return torch.randint(3, 20, (2, length), generator=torch.Generator().manual_seed(1))


def _randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def _text() -> Inputs:
    return {"input_ids": _ids()}


def _pair() -> Inputs:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(6)}


def _pixels(size: int = 16) -> Inputs:
    return {"pixel_values": _randn(2, 3, size, size)}


def _waves() -> Inputs:
    return {"input_values": _randn(2, 700)}


def _detr() -> dict[str, Any]:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return {
        **_SEQ2SEQ,
        "num_queries": 5,
        "backbone_config": backbone,
        "backbone": None,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
    }


def _depth_anything() -> dict[str, Any]:
    names = {"out_features": ["stage1", "stage2"], "reshape_hidden_states": False}
    backbone = transformers.Dinov2Config(**(_DINOV2 | {"image_size": 28, "patch_size": 7} | names))
    return {
        "backbone_config": backbone,
        "depth_estimation_type": "metric",  # a sigmoid: a random model's relative depth is 0 everywhere
        "reassemble_hidden_size": 12,
        "patch_size": 7,
        "neck_hidden_sizes": [8, 8],
        "reassemble_factors": [2, 1],
        "fusion_hidden_size": 8,
        "head_hidden_size": 8,
    }


Settings = dict[str, Any]
_MODELS: dict[str, tuple[str, str, Settings | Callable[[], Settings], Callable[[], Inputs]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGES, _pixels),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _IMAGES, _pixels),
    "bert": ("BertModel", "BertConfig", _TEXT, _text),
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config", _AUDIO, _waves),
    "wav2vec2, stable": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**_AUDIO, **_STABLE}, _waves),
    "hubert": ("HubertModel", "HubertConfig", _AUDIO, _waves),
    "wavlm": ("WavLMModel", "WavLMConfig", _AUDIO, _waves),
    "data2vec audio": ("Data2VecAudioModel", "Data2VecAudioConfig", {**_AUDIO, "conv_pos_kernel_size": 5}, _waves),
    "data2vec vision": ("Data2VecVisionModel", "Data2VecVisionConfig", _IMAGES, _pixels),
    "data2vec text": ("Data2VecTextModel", "Data2VecTextConfig", _TEXT, _text),
    "dinov2": ("Dinov2Model", "Dinov2Config", _DINOV2, _pixels),
    "dinov2, swiglu": ("Dinov2Model", "Dinov2Config", {**_DINOV2, "use_swiglu_ffn": True}, _pixels),
    "clip vision": ("CLIPVisionModel", "CLIPVisionConfig", {**_IMAGES, "hidden_act": "gelu"}, _pixels),
    "clip text": ("CLIPTextModel", "CLIPTextConfig", _TEXT, _text),
    "siglip vision": ("SiglipVisionModel", "SiglipVisionConfig", _IMAGES, _pixels),
    "siglip text": ("SiglipTextModel", "SiglipTextConfig", _TEXT, _text),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _TEXT, _text),
    "xlm-r": ("XLMRobertaModel", "XLMRobertaConfig", _TEXT, _text),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 12, "hidden_dim": 24, "n_layers": 2, "n_heads": 3, "vocab_size": 20, "max_position_embeddings": 40},
        _text,
    ),
    "mpnet": ("MPNetModel", "MPNetConfig", _TEXT, _text),
    "electra": ("ElectraModel", "ElectraConfig", {**_TEXT, "embedding_size": 8}, _text),
    "modernbert": ("ModernBertModel", "ModernBertConfig", {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}, _text),
    "swin": ("SwinModel", "SwinConfig", _SWIN, lambda: _pixels(32)),
    "swinv2": ("Swinv2Model", "Swinv2Config", _SWIN, lambda: _pixels(32)),
    "ast": (
        "ASTModel",
        "ASTConfig",
        {**_SIZES, "max_length": 32, "num_mel_bins": 16},
        lambda: {"input_values": _randn(2, 32, 16)},
    ),
    "vit-mae": ("ViTMAEForPreTraining", "ViTMAEConfig", {**_IMAGES, **_MAE_DECODER}, _pixels),
    "beit": ("BeitModel", "BeitConfig", _IMAGES, _pixels),
    "detr": ("DetrModel", "DetrConfig", _detr, lambda: _pixels(64)),
    "depth anything": ("DepthAnythingForDepthEstimation", "DepthAnythingConfig", _depth_anything, lambda: _pixels(28)),
    "whisper": (
        "WhisperModel",
        "WhisperConfig",
        {**_WHISPER, "decoder_start_token_id": 1},
        lambda: {"input_features": _randn(2, 8, 20), "decoder_input_ids": _ids(6)},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 24, "vocab_size": 20, "n_positions": 40, **_SPECIAL},
        _text,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "mlp_bias": True}, _text),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, _text),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_LLAMA, "head_dim": 4}, _text),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_LLAMA, "head_dim": 4}, _text),
    "gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_LLAMA, "head_dim": 4}, _text),
    "phi-3": ("Phi3ForCausalLM", "Phi3Config", _LLAMA, _text),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_LLAMA, "head_dim": 4}, _text),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 20, **_SPECIAL},
        _text,
    ),
    "t5": ("T5Model", "T5Config", _T5, _pair),
    "t5, gated": ("T5Model", "T5Config", {**_T5, "feed_forward_proj": "gated-gelu"}, _pair),
    "esm": ("EsmModel", "EsmConfig", {**_TEXT, "mask_token_id": 3}, _text),
    "squeezebert": (
        "SqueezeBertModel",
        "SqueezeBertConfig",
        {**_TEXT, "embedding_size": 12}
        | dict.fromkeys([f"{part}_groups" for part in ("q", "k", "v", "post_attention", "intermediate", "output")], 1),
        _text,
    ),
    "albert": ("AlbertModel", "AlbertConfig", {**_TEXT, "embedding_size": 8}, _text),
    "segformer": ("SegformerModel", "SegformerConfig", _SEGFORMER, lambda: _pixels(64)),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_LLAMA, "num_local_experts": 4}, _text),
}
NAMES = tuple(_MODELS)


def tiny_transformer(name: str) -> tuple[Any, Inputs]:
    """Make a model in evaluation mode with random weights, and example inputs of two samples."""
    model_class, config_class, settings, inputs = _MODELS[name]
    config = getattr(transformers, config_class)(**(settings() if callable(settings) else settings))
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in key:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif key.endswith("bias"):
                parameter.normal_(std=0.1)
    return model, inputs()
