"""The routing rule of docs/op.md in numpy: from gate logits to learner counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def margins(gate_logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Margins of the gated learners: docs/op.md, "Margins".

    ``margin[..., g] = max(z[..., g + 1:]) - max(z[..., : g + 1])``, one float32 subtraction, for the learner
    ``min_learners + g + 1``. Margins never increase along the last axis.

    Args:
        gate_logits: z, float32 ``[..., C]``.

    Returns:
        float32 ``[..., C - 1]``; all NaN for a token with a NaN logit.
    """
    z = np.asarray(gate_logits, np.float32)
    if z.shape[-1] == 1:
        return np.empty((*z.shape[:-1], 0), np.float32)
    lower = np.maximum.accumulate(z, axis=-1)[..., :-1]
    upper = np.flip(np.maximum.accumulate(np.flip(z, -1), axis=-1), -1)[..., 1:]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(upper - lower, np.float32)


def learner_counts(
    gate_logits: NDArray[np.float32], thresholds: NDArray[np.float32], min_learners: int
) -> NDArray[np.int32]:
    """Number of learners that run for each token: docs/op.md, "Counts".

    Args:
        gate_logits: z, float32 ``[..., C]``.
        thresholds: τ, float32 ``[N]``; the first ``min_learners`` entries are ignored.
        min_learners: Number of learners that always run.

    Returns:
        int32 ``[...]``: ``min_learners`` plus the longest prefix of gated learners whose margin is above τ.
    """
    runs = margins(gate_logits) > np.asarray(thresholds, np.float32)[min_learners:]
    gated = np.logical_and.accumulate(runs, axis=-1).sum(axis=-1) if runs.shape[-1] else np.zeros(runs.shape[:-1])
    return np.asarray(min_learners + gated, np.int32)
