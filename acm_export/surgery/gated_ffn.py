"""Feed-forward networks whose hidden values are multiplied by a second up projection, which ACM layers do not have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The second projection as Llama, Gemma, Phi-3, DINOv2 (modules; files) and T5 v1.1 of transformers name it.
_GATED = re.compile(
    r"^(?P<site>.*\b(?:mlp|feed_forward|ffn|DenseReluDense))\.(?:gate_proj|gate_up_proj|weights_in|wi_1)\b"
)


def gated_ffn(names: Iterable[str]) -> str | None:
    """The first gated feed-forward network among modules or weights of these names, or None."""
    return next((found["site"] for found in map(_GATED.match, names) if found), None)
