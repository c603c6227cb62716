"""Settings of a loaded model that a comparison and an export need: no chunks, no cache, no random order."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def prepare_model(model: nn.Module) -> None:
    """Make a model compute the same for the same inputs, on whole sequences, in place.

    - ``chunk_size_feed_forward`` is disabled: chunks of tokens save memory, but the padding mask would not fit them.
    - ``use_cache`` is disabled: nothing generates text here.
    - ``nn.TransformerEncoderLayer`` calls its FFN instead of reading its weights, which an ACM layer does not have.
    - Patches stay in order: ViT-MAE shuffles them and hides a part, at random in each pass, even in evaluation.
    """
    disable_ffn_chunking(model)
    disable_encoder_fast_path(model)
    module: Any  # modules of transformers, with attributes of their own
    for module in model.modules():
        if hasattr(module, "random_masking"):
            module.random_masking = keep_all_patches
        if getattr(getattr(module, "config", None), "use_cache", None):
            module.config.use_cache = False


def disable_ffn_chunking(model: nn.Module) -> None:
    """Run every feed-forward network once in a pass instead of once for each chunk of tokens, in place."""
    module: Any  # not every module has the attribute
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0


def disable_encoder_fast_path(model: nn.Module) -> None:
    """Let torch's encoder layers call their modules, as in training, in place; their fast path reads weights."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def keep_all_patches(
    sequence: torch.Tensor, noise: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Replacement of ``random_masking`` that hides no patch and keeps their order.

    Args:
        sequence: Patches ``[batch, patches, width]``.
        noise: Ignored.

    Returns:
        The patches; a mask ``[batch, patches]`` of zeros, which hides none; the order ``[batch, patches]``.
    """
    del noise
    batch, length, _ = sequence.shape
    order = torch.arange(length, device=sequence.device).expand(batch, length)
    return sequence, torch.zeros(batch, length, device=sequence.device), order
