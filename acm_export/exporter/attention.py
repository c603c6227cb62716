"""Attention as four plain operators while a model is exported.

In transformers, scaled_dot_product_attention exports with guards against fully masked rows, and eager attention exports
with a mask even when nothing is masked. ONNX Runtime and TensorRT fuse MatMul, Div, Softmax, MatMul (ONNX Runtime's
fusion of attention without a mask does not match a Mul).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, eager_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_NAME = "acm_export_plain"


@contextmanager
def plain_attention(module: nn.Module) -> Iterator[None]:
    """While the block runs, every transformers model inside ``module`` uses plain attention."""
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(
        _NAME, _mask
    )  # transformers passes no mask to an attention without a registered mask function
    configs = {id(m.config): m.config for m in module.modules() if isinstance(m, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}  # noqa: SLF001
    try:
        for config in configs.values():
            config._attn_implementation = _NAME  # noqa: SLF001
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]  # noqa: SLF001


def _mask(**arguments: object) -> torch.Tensor | None:
    """Mask added to the scores, ``(batch, 1, queries, keys)``; None if every token attends to every other."""
    unrestricted = arguments["mask_function"] is bidirectional_mask_function and arguments.get("local_size") is None
    if unrestricted and arguments["attention_mask"] is None:
        return None
    mask: torch.Tensor | None = eager_mask(**arguments)
    return mask


def _attend(
    module: nn.Module,  # noqa: ARG001
    query: torch.Tensor,  # (batch, heads, queries, head_dim)
    key: torch.Tensor,  # (batch, heads or groups of heads, keys, head_dim)
    value: torch.Tensor,  # (batch, heads or groups of heads, keys, head_dim)
    attention_mask: torch.Tensor | None,  # (batch, 1, queries, keys), bool or added to the scores
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,  # (1 or batch, heads, queries, keys), added to the scores (T5)
    softcap: float | None = None,  # largest magnitude of the scores (Gemma 2)
    **_: object,
) -> tuple[torch.Tensor, None]:
    divisor = query.shape[-1] ** 0.5 if scaling is None else 1 / scaling
    heads_per_group = query.shape[1] // key.shape[1]
    if heads_per_group > 1:
        key, value = (states.repeat_interleave(heads_per_group, dim=1) for states in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) / divisor
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            attention_mask = torch.where(attention_mask, 0.0, torch.finfo(scores.dtype).min)
        scores = scores + attention_mask.to(scores.dtype)
    mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
    return mixed.transpose(1, 2).contiguous(), None
