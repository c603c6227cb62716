"""A small decoder in the manner of Llama, with ACM layers for gated and ungated FFNs, and samples for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.modules import ACMLayer, ACMSpec, acm_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDTH, HEADS, TOKENS, WORDS = 64, 4, 12, 50

SWIGLU = ACMSpec(WIDTH, 4, 32, activation="silu", glu=True)
GEGLU = ACMSpec(WIDTH, 3, 40, 1, "gelu_tanh", (8,), "gelu_tanh", glu=True)
UNGATED = ACMSpec(WIDTH, 4, 32, activation="silu")
"""Differs from ``SWIGLU`` in the multiplied branch alone."""


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH).uniform_(0.5, 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    """Causal attention without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        shape = (batch, tokens, HEADS, WIDTH // HEADS)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Attention and an ACM layer, each behind a norm and under a residual connection."""

    def __init__(self, spec: ACMSpec) -> None:
        super().__init__()
        self.attention, self.ffn = Attention(), ACMLayer(spec)
        self.norms = nn.ModuleList([RMSNorm(), RMSNorm()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.ffn(self.norms[1](x))


class Decoder(nn.Module):
    """A language model that maps ``input_ids`` to logits of the next word."""

    def __init__(self, specs: Sequence[ACMSpec]) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, WIDTH), RMSNorm()
        self.blocks = nn.ModuleList(Block(spec) for spec in specs)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def tiny_decoder(specs: Sequence[ACMSpec] = (SWIGLU, UNGATED, GEGLU)) -> Decoder:
    """Make a decoder with random weights, biases among them, whose gates use every learner count."""
    torch.manual_seed(2)
    model = Decoder(specs).eval()
    with torch.no_grad():
        for _, layer in acm_layers(model):
            for parameter in layer.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter.normal_(std=0.3)
            layer.b2.normal_(std=0.1)
            layer.gate.linears[-1].weight.mul_(4)
    return model.requires_grad_(requires_grad=False)


def word_ids(batch: int, tokens: int = TOKENS) -> torch.Tensor:
    """Random words ``[batch, tokens]``."""
    return torch.randint(0, WORDS, (batch, tokens), generator=torch.Generator().manual_seed(batch))


def write_words(path: Path, samples: int = 80) -> Path:
    """Samples for the decoder."""
    np.savez(path, input_ids=word_ids(samples).numpy())
    return path
