"""Which TensorRTs the plugin supports."""

from __future__ import annotations

OLDEST = (8, 5)
"""TensorRT of JetPack 5.1, the oldest that runs on a GPU with kernels."""

OLDEST_10 = (10, 3)
"""Oldest TensorRT 10: that of JetPack 6.1."""


def supported(version: tuple[int, ...]) -> bool:
    """Whether the plugin supports a TensorRT: 8.5 and later 8.x, 10.3 and everything later.

    Args:
        version: Major and minor version; further numbers are ignored.
    """
    return OLDEST <= version[:2] < (9,) or version[:2] >= OLDEST_10
