"""Fields of a config whose bad values transformers answers with a message that names no field."""

from __future__ import annotations

from typing import Any

from transformers.activations import ACT2FN

from acm_export.base.errors import CheckpointError

_COUNTS = (
    "hidden_size", "intermediate_size", "num_attention_heads", "patch_size", "image_size", "num_channels", "vocab_size",
    "type_vocab_size", "max_position_embeddings", "d_model", "encoder_attention_heads", "encoder_ffn_dim",
    "num_mel_bins", "max_source_positions", "conv_dim", "conv_kernel", "conv_stride",
)  # fmt: skip
_ACTIVATIONS = ("hidden_act", "activation_function", "feat_extract_activation")


def check_fields(config: dict[str, Any]) -> None:
    """Hold counts against 1 and the activation against those that are known, where the config states them.

    Raises:
        CheckpointError: A value is impossible; the message has the field and the value.
    """
    for field in _COUNTS:
        value = config.get(field)
        if any(isinstance(item, int) and item < 1 for item in (value if isinstance(value, list) else [value])):
            raise CheckpointError(
                f"config.json has {field} = {value!r}, expected at least 1", f"correct {field} in config.json"
            )
    for field in _ACTIVATIONS:
        activation = config.get(field)
        if isinstance(activation, str) and activation not in ACT2FN:
            raise CheckpointError(
                f"config.json has {field} = {activation!r}, which is no known activation",
                f"give one of {', '.join(sorted(ACT2FN))}",
            )
