"""Shared by the GPU tests: random inputs of the operator, and its value in float64, learner by learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from acm_export.modules.activations import activation_fn
from acm_export.op.routing import learner_counts
from acm_export.op.signature import INPUTS

if TYPE_CHECKING:
    from acm_export.op.signature import Signature

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest error relative to the largest value of y: docs/op.md, "Output"."""


@dataclass(frozen=True)
class Inputs:
    """The operator's inputs, in order, and its attributes."""

    tensors: tuple[torch.Tensor, ...]
    signature: Signature

    def attributes(self) -> tuple[int, int, str]:
        return self.signature.num_learners, self.signature.min_learners, self.signature.activation


def random_inputs(
    tokens: int,
    model_dim: int,
    hidden_dim: int,
    signature: Signature,
    dtype: torch.dtype,
    *,
    device: str = "cuda",
    threshold: float = 0.0,
    seed: int = 0,
) -> Inputs:
    """Draw normal inputs, scaled to keep outputs near 1."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = dtype) -> torch.Tensor:
        return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)

    n, width = signature.num_learners, signature.num_learners * hidden_dim
    first = (
        normal(tokens, model_dim),
        normal(tokens, signature.num_choices, dtype=torch.float32),
        torch.full((n,), threshold, device=device),
        normal(model_dim, width, scale=model_dim**-0.5),
        normal(width),
    )
    value = (normal(model_dim, width, scale=model_dim**-0.5), normal(width)) if signature.glu else ()
    last = (normal(width, model_dim, scale=width**-0.5), normal(n + 1, model_dim))
    return Inputs((*first, *value, *last), signature)


def reference(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y in float64, and the counts."""
    signature = inputs.signature
    named = dict(zip(signature.inputs, inputs.tensors, strict=True))
    x, gate_logits, thresholds, w1, b1, w2, b2 = (named[n] for n in INPUTS)
    counts = torch.from_numpy(
        learner_counts(gate_logits.cpu().numpy(), thresholds.cpu().numpy(), signature.min_learners)
    ).to(x.device)
    hidden = w1.shape[1] // signature.num_learners
    y = b2.double()[counts.long()]
    for learner in range(signature.num_learners):
        rows, part = counts > learner, slice(learner * hidden, (learner + 1) * hidden)
        up = x[rows].double() @ w1[:, part].double() + b1[part].double()
        hidden_values = activation_fn(signature.activation)(up)
        if signature.glu:
            hidden_values *= x[rows].double() @ named["v1"][:, part].double() + named["c1"][part].double()
        y[rows] += hidden_values @ w2[part].double()
    return y, counts


def largest_error(y: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error relative to the largest value; NaN if y has NaN."""
    if not y.numel():
        return 0.0
    return float((y.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
