"""FLOPs of transformers with ACM layers: pure arithmetic, one multiply-add counted as 2, matrix products only.

The convention is the one of ``torch.utils.flop_counter``: biases, activations, norms, softmax and the sorting of tokens
are not counted. All FLOPs are computed here; acm_export/surgery/accounting.py and acm_export/exporter/measure.py find
out which modules a forward pass runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.modules import ACMSpec


def linear_flops(in_features: int, out_features: int) -> int:
    """FLOPs per token of one linear map."""
    return 2 * in_features * out_features


def convolution_flops(in_channels: int, out_channels: int, kernel: Sequence[int], groups: int = 1) -> int:
    """FLOPs of one convolution per position of its output; padding counts as data."""
    return 2 * (in_channels // groups) * out_channels * prod(kernel)


def learner_flops(spec: ACMSpec) -> int:
    """FLOPs per token of one learner: up and down projection, 4·D·h; 6·D·h for a GLU, which has two up projections."""
    up = linear_flops(spec.model_dim, spec.hidden_dim)
    return (2 if spec.glu else 1) * up + linear_flops(spec.hidden_dim, spec.model_dim)


def gate_flops(spec: ACMSpec) -> int:
    """FLOPs per token of a layer's gate, whose linear maps have widths D, ..., C."""
    return sum(linear_flops(a, b) for a, b in pairwise(spec.gate_dims))


def site_flops(widths: Sequence[tuple[int, int]]) -> int:
    """FLOPs per token of the dense modules at a site, whose linear maps have these widths (in, out)."""
    return sum(linear_flops(a, b) for a, b in widths)


def attention_core_flops(keys: int, width: int) -> int:
    """FLOPs per token of scores and mixing, 4·keys·width; grows with the length of the sequence.

    Args:
        keys: Tokens that each token attends to, including masked ones.
        width: Total width of all heads.
    """
    return 2 * linear_flops(keys, width)


def learners_share(spec: ACMSpec, dense_flops: int) -> float:
    """FLOPs of all learners ÷ FLOPs of the dense modules that they replace."""
    return spec.num_learners * learner_flops(spec) / dense_flops


def gate_share(spec: ACMSpec, dense_flops: int) -> float:
    """FLOPs of the gate ÷ FLOPs of the dense modules that the layer replaces."""
    return gate_flops(spec) / dense_flops


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one forward pass, by part of the model.

    Args:
        learners: FLOPs of all learners of all ACM layers.
        gates: FLOPs of the gates of all ACM layers.
        dense_sites: FLOPs of dense modules that an ACM layer could replace.
        attention_core: FLOPs of attention scores and mixing.
        rest: FLOPs of embeddings, convolutions and heads.
    """

    learners: int
    gates: int
    dense_sites: int
    attention_core: int
    rest: int

    @property
    def total(self) -> int:
        """FLOPs of the whole pass with all learners."""
        return self.learners + self.gates + self.dense_sites + self.attention_core + self.rest

    def at(self, budget: float) -> float:
        """FLOPs of the whole pass when the share ``budget`` of the learners' FLOPs is executed."""
        return self.total - self.learners + budget * self.learners
