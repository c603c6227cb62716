"""A small random model of every kind of transformer that users bring, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers as hf
from transformers.models.whisper.modeling_whisper import WhisperEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
_IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 1}
_LABELS = {"num_labels": 5}
_TEXT = {"vocab_size": 20, "max_position_embeddings": 40}
_ROBERTA = {**_SIZES, **_TEXT, "pad_token_id": 1, "type_vocab_size": 1}
_MODERNBERT = {
    **_SIZES, **_TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
_AUDIO = {
    "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4, "vocab_size": 6,
}  # fmt: skip
_LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_ENCODER_DECODER = {
    "d_model": 12, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 24, "decoder_layers": 1,
    "decoder_attention_heads": 3, "decoder_ffn_dim": 24,
}  # fmt: skip
_BART = {
    **_ENCODER_DECODER, **_TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_WHISPER = {
    **_ENCODER_DECODER, "num_mel_bins": 8, "max_source_positions": 10, "vocab_size": 20, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "max_target_positions": 40,
}  # fmt: skip
_T5 = {"d_model": 12, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3, "vocab_size": 20}
_TOKENS = {"eos_token_id": 19, "bos_token_id": 0, "pad_token_id": 1}
_TOWERS = {"text_config": {**_SIZES, **_TEXT, **_TOKENS}, "vision_config": {**_SIZES, **_IMAGES}}
_CLIP = {name: {**tower, "projection_dim": 6} for name, tower in _TOWERS.items()}
_SWIN = {
    "image_size": 16, "patch_size": 2, "num_channels": 1, "embed_dim": 12, "depths": [1, 1], "num_heads": [3, 3],
    "window_size": 2, "mlp_ratio": 2.0,
}  # fmt: skip
_MAE = {
    "decoder_hidden_size": 12, "decoder_num_attention_heads": 3, "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 24,
}  # fmt: skip
_LLAMA = {**_SIZES, **_TEXT, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
_QWEN = {**_LLAMA, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}  # groups of heads
_GEMMA = {**_LLAMA, "head_dim": 4, "sliding_window": 8, "pad_token_id": 0, "attn_logit_softcapping": 0.5}
_GPT2 = {
    "n_embd": 12, "n_layer": 2, "n_head": 3, "vocab_size": 20, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _depth_anything() -> hf.PretrainedConfig:
    backbone = hf.Dinov2Config(
        **_SIZES, image_size=28, patch_size=14, num_channels=1, out_indices=[1, 2], apply_layernorm=True,
        reshape_hidden_states=False,
    )  # fmt: skip
    return hf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=12, patch_size=14, neck_hidden_sizes=[4, 4],
        reassemble_factors=[2, 1], fusion_hidden_size=4, head_hidden_size=4,
    )  # fmt: skip


def _detr() -> hf.PretrainedConfig:
    backbone = hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], out_features=["stage2"])
    return hf.DetrConfig(
        **_ENCODER_DECODER, num_queries=4, num_labels=3, use_timm_backbone=False, use_pretrained_backbone=False,
        backbone=None, backbone_config=backbone,
    )  # fmt: skip


_MAKE: dict[str, Callable[[], Any]] = {
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_SIZES, **_IMAGES, **_LABELS)),
    "deit, two heads": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**_SIZES, **_IMAGES, **_LABELS)),
    "bert": lambda: hf.BertModel(hf.BertConfig(**_SIZES, **_TEXT)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**_ROBERTA)),
    "xlm-r": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**_ROBERTA)),
    "data2vec text": lambda: hf.Data2VecTextModel(hf.Data2VecTextConfig(**_ROBERTA)),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**_SIZES, **_TEXT, pad_token_id=1)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(dim=12, n_layers=2, n_heads=3, hidden_dim=24, **_TEXT)
    ),
    "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**_SIZES, **_TEXT, embedding_size=8)),
    "modernbert": lambda: hf.ModernBertForSequenceClassification(hf.ModernBertConfig(**_MODERNBERT)),
    "esm": lambda: hf.EsmModel(
        hf.EsmConfig(**_SIZES, **_TEXT, pad_token_id=1, mask_token_id=3, position_embedding_type="absolute")
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT2)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA)),
    "llama, tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA, tie_word_embeddings=True)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_QWEN)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_GEMMA)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_LLAMA, pad_token_id=0)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)),
    "t5 encoder": lambda: hf.T5EncoderModel(hf.T5Config(**_T5)),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**_BART)),
    "hubert": lambda: hf.HubertForCTC(hf.HubertConfig(**_SIZES, **_AUDIO)),
    "hubert large": lambda: hf.HubertModel(hf.HubertConfig(**_SIZES, **_AUDIO, **_LARGE)),
    "wavlm": lambda: hf.WavLMModel(hf.WavLMConfig(**_SIZES, **_AUDIO)),
    "wavlm large": lambda: hf.WavLMForCTC(hf.WavLMConfig(**_SIZES, **_AUDIO, **_LARGE)),
    "data2vec audio": lambda: hf.Data2VecAudioModel(hf.Data2VecAudioConfig(**_SIZES, **_AUDIO, conv_pos_kernel_size=3)),
    "unispeech": lambda: hf.UniSpeechModel(hf.UniSpeechConfig(**_SIZES, **_AUDIO)),
    "ast": lambda: hf.ASTForAudioClassification(
        hf.ASTConfig(**_SIZES, patch_size=4, num_mel_bins=8, max_length=12, frequency_stride=4, time_stride=4)
    ),
    "vit mae": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**_SIZES, **_IMAGES, **_MAE)),
    "swin": lambda: hf.SwinForImageClassification(hf.SwinConfig(**_SWIN, **_LABELS)),
    "beit": lambda: hf.BeitForImageClassification(hf.BeitConfig(**_SIZES, **_IMAGES, **_LABELS)),
    "data2vec vision": lambda: hf.Data2VecVisionModel(hf.Data2VecVisionConfig(**_SIZES, **_IMAGES)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**_SIZES, **_IMAGES)),
    "dinov2 giant": lambda: hf.Dinov2Model(hf.Dinov2Config(**_SIZES, **_IMAGES, use_swiglu_ffn=True)),
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(**_CLIP, projection_dim=6)),
    "clip vision": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**_CLIP["vision_config"])),
    "clip text": lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**_CLIP["text_config"])),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(**_TOWERS)),
    "siglip vision": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**_TOWERS["vision_config"])),
    "depth anything": lambda: hf.DepthAnythingForDepthEstimation(_depth_anything()),
    "detr": lambda: hf.DetrForObjectDetection(_detr()),
    "yolos": lambda: hf.YolosForObjectDetection(
        hf.YolosConfig(
            **_SIZES, image_size=[16, 24], patch_size=8, num_channels=1, num_detection_tokens=4, num_labels=3
        )
    ),
    "whisper": lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**_WHISPER)),
    "whisper encoder": lambda: WhisperEncoder(hf.WhisperConfig(**_WHISPER)),
}
"""For each kind, a function that makes a dense model of width 12."""

NAMES = tuple(_MAKE)


def tiny_model(name: str) -> Any:
    """Make a dense model in evaluation mode with weights that give activations of about 1."""
    model = _MAKE[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in key and "shared" not in key:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif key.endswith("bias"):
                parameter.normal_(std=0.1)
    return model
