"""What a run over data shows of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Observed:
    """Values of one tensor, without padding.

    Args:
        largest: Largest absolute value of each channel over all tokens, float32 ``[D]``.
        sample: Some of the tokens, chosen at random, float32 ``[tokens, D]``.
        counts: Learner counts of these tokens, int32 ``[tokens]``, if an ACM layer reads the tensor.
    """

    largest: NDArray[np.float32]
    sample: NDArray[np.float32]
    counts: NDArray[np.int32] | None = None
