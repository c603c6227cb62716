"""GatedLearners and GLUGatedLearners as a loop over tokens in float64, the reference for every implementation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.op.routing import learner_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acm_export.op.signature import Signature

Array = Any  # an array of any float dtype, including the bfloat16 of ml_dtypes


def activate(name: str, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The activation ``name`` of float64 values, elementwise (docs/op.md, "Attributes")."""
    with np.errstate(over="ignore"):
        if name == "gelu":
            v = v * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(v / math.sqrt(2)))
        elif name == "gelu_tanh":
            v = v * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        elif name == "relu":
            v = np.maximum(v, 0)
        elif name == "silu":
            v = v / (1 + np.exp(-v))
    return v


def gated_learners(
    x: Array,
    gate_logits: Array,
    thresholds: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    signature: Signature,
    *,
    v1: Array = None,
    c1: Array = None,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Evaluate the operator one token and one learner at a time.

    Args:
        x: ``[..., D]``.
        gate_logits: float32 ``[..., C]``.
        thresholds: float32 ``[N]``.
        w1: ``[D, N*h]``.
        b1: ``[N*h]``.
        w2: ``[N*h, D]``.
        b2: ``[N+1, D]``; row k is the whole output bias of a token with count k.
        signature: The operator and its attributes.
        v1: ``[D, N*h]``, for a signature with ``glu``.
        c1: ``[N*h]``, for a signature with ``glu``.

    Returns:
        y, float64 ``[..., D]``, and counts, int32 ``[...]``.
    """
    x, w1, b1, w2, b2 = (np.asarray(a).astype(np.float64) for a in (x, w1, b1, w2, b2))
    if signature.glu:
        v1, c1 = np.asarray(v1).astype(np.float64), np.asarray(c1).astype(np.float64)
    counts = learner_counts(gate_logits, thresholds, signature.min_learners)
    hidden = w1.shape[1] // signature.num_learners
    y = np.empty_like(x)
    for token in np.ndindex(counts.shape):
        total = b2[counts[token]].copy()
        for learner in range(counts[token]):
            columns = slice(learner * hidden, (learner + 1) * hidden)
            active = activate(signature.activation, x[token] @ w1[:, columns] + b1[columns])
            if signature.glu:
                active = active * (x[token] @ v1[:, columns] + c1[columns])
            total += active @ w2[columns]
        y[token] = total
    return y, counts
