"""The float weights of one ACM layer, and how they can be rescaled without a change of what the layer computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from acm_export.quantization.activations import activated
from acm_export.quantization.scales import migration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from acm_export.op.signature import Signature
    from acm_export.quantization.observed import Observed
    from acm_export.quantization.options import Options


@dataclass(frozen=True)
class FloatLearners:
    """The weights of one ACM layer in float32, as in docs/op.md.

    Args:
        w1: ``[D, N*h]``.
        b1: ``[N*h]``.
        w2: ``[N*h, D]``.
        b2: ``[N+1, D]``.
        v1: ``[D, N*h]``, the multiplied branch of a GLU, or None, as c1.
        c1: ``[N*h]``.
    """

    w1: NDArray[np.float32]
    b1: NDArray[np.float32]
    w2: NDArray[np.float32]
    b2: NDArray[np.float32]
    v1: NDArray[np.float32] | None = None
    c1: NDArray[np.float32] | None = None

    @property
    def up(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weight and bias of each up projection, by the name of the weight."""
        branches = {"w1": (self.w1, self.b1)}
        return branches if self.v1 is None or self.c1 is None else branches | {"v1": (self.v1, self.c1)}


def parts(weights: FloatLearners, signature: Signature) -> list[slice]:
    """The hidden columns of each learner."""
    n = signature.num_learners
    hidden = weights.w1.shape[1] // n
    return [slice(learner * hidden, (learner + 1) * hidden) for learner in range(n)]


def divisor_of(weights: FloatLearners, seen: Observed, options: Options) -> NDArray[np.float32]:
    """What each channel of x is divided by; both up projections of a GLU read the same int8 tokens."""
    if not options.migration:
        return np.ones(len(weights.w1), np.float32)
    largest = np.max([np.abs(weight).max(1) for weight, _ in weights.up.values()], axis=0)
    return migration(seen.largest, largest, options.migration)


def smoothed(weights: FloatLearners, signature: Signature, seen: Observed, options: Options) -> FloatLearners:
    """The same layer with hidden products of more even size; only a GLU can be rescaled.

    A hidden product is linear in its column of v1, so the column is divided and the row of w2 multiplied by the
    divisor of SmoothQuant. Some channels of a GLU are many times as large as the others, and one scale serves a
    learner.
    """
    if weights.v1 is None or weights.c1 is None or not options.migration:
        return weights
    divisor = np.ones(weights.v1.shape[1], np.float32)
    for part in parts(weights, signature):
        hidden = hidden_values(signature, [seen.sample @ w[:, part] + b[part] for w, b in weights.up.values()])
        divisor[part] = migration(np.abs(hidden).max(0), np.abs(weights.w2[part]).max(1), options.migration)
    return replace(weights, v1=weights.v1 / divisor, c1=weights.c1 / divisor, w2=weights.w2 * divisor[:, None])


def hidden_values(signature: Signature, up: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Hidden values ``[tokens, h]`` of one learner from the results of its up projections."""
    active = activated(signature.activation, up[0])
    return active * up[1] if signature.glu else active
