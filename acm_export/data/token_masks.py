"""Masks of padding tokens, which cost nothing and whose outputs are ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

MASK = "attention_mask"


@dataclass(frozen=True)
class TokenMasks:
    """Masks of one batch.

    Args:
        by_shape: bool masks by their shape, true for tokens that are not padding.
    """

    by_shape: dict[tuple[int, ...], NDArray[np.bool_]]

    @classmethod
    def of_batch(cls, feeds: Mapping[str, np.ndarray], gate_logits: Iterable[NDArray[np.float32]]) -> TokenMasks:
        """The attention mask among the inputs, and the masks that layers derive from it.

        A speech model takes a mask over samples but masks tokens, which span many samples each. The gate logits of
        padding then leave a single choice: the others are -inf (docs/op.md).

        Args:
            feeds: The model's inputs.
            gate_logits: Gate logits of each layer, ``[..., C]``.
        """
        mask = feeds.get(MASK)
        if mask is None:
            return cls({})
        found = {mask.shape: mask.astype(bool)}
        for z in gate_logits:
            if z.shape[-1] > 1 and z.shape[:-1] not in found:
                found[z.shape[:-1]] = np.logical_not(np.isneginf(z[..., 1:]).all(-1))
        return cls(found)

    def of(self, shape: Sequence[int]) -> NDArray[np.bool_] | None:
        """The mask for learner counts or values of this shape; None if nothing marks padding."""
        return next((m for known, m in self.by_shape.items() if tuple(shape[: len(known)]) == known), None)
