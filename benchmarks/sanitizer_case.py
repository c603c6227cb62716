"""A few small calls of the kernels, which gpu_check.py runs under compute-sanitizer."""

from __future__ import annotations

import torch

from acm_export.modules import ACMLayer, ACMSpec

SHAPES = ((1, 32, 16, 2), (40, 65, 24, 4), (197, 96, 64, 4), (700, 128, 64, 5))
"""Tokens, D, h, N: one block and several of routing, split and whole K, aligned widths and odd ones."""


def main() -> None:
    """Run every shape in every dtype and wait for the result."""
    torch.manual_seed(0)
    for tokens, model_dim, hidden_dim, learners in SHAPES:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            layer = ACMLayer(ACMSpec(model_dim=model_dim, num_learners=learners, hidden_dim=hidden_dim))
            layer = layer.cuda().to(dtype).eval()
            x = torch.randn(tokens, model_dim, device="cuda").to(dtype)
            with torch.no_grad():
                y, counts = layer.run(x, torch.randn(tokens, learners + 1, device="cuda"))
            print(tokens, model_dim, hidden_dim, learners, dtype, float(y.float().abs().mean()), int(counts.sum()))


if __name__ == "__main__":
    main()
