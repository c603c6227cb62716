"""Samples and tokens of models that read a waveform through convolutions, such as wav2vec 2.0."""

from __future__ import annotations

from typing import Any


def samples_for(config: Any, tokens: int) -> int:
    """Smallest number of samples that the convolutions turn into this many tokens."""
    samples = tokens
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def tokens_of(config: Any, samples: int) -> int:
    """Number of tokens that the model makes of this many samples."""
    tokens = samples
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        tokens = max((tokens - kernel) // stride + 1, 0)
    for _ in range(config.num_adapter_layers if getattr(config, "add_adapter", False) else 0):
        tokens = (tokens - 1) // config.adapter_stride + 1
    return tokens
