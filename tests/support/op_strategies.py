"""What tests of the operators draw and go through: kinds of FFN, routing, and counts at the edges of tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import strategies as st

if TYPE_CHECKING:
    from op_model import Feeds

INF, NAN = float("inf"), float("nan")
WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 128]))
"""D and h of kernels: any, and multiples of their tiles."""

BOTH_KINDS = pytest.mark.parametrize("glu", [False, True], ids=["plain", "glu"])
"""A test of plain FFNs and of gated ones."""

USUAL = {False: "gelu", True: "silu"}
"""The usual activation of plain FFNs and of gated ones."""


def draw_routing(draw: st.DrawFn, feeds: Feeds, rng: np.random.Generator) -> None:
    """Draw thresholds, infinite and NaN ones among them, and sometimes put NaN or infinities into the logits."""
    thresholds = st.sampled_from([0.0, 0.0, 0.7, -0.7, INF, -INF, NAN])
    n = feeds["thresholds"].size
    feeds["thresholds"] = np.array(draw(st.lists(thresholds, min_size=n, max_size=n)), np.float32)
    if draw(st.booleans()) and feeds["gate_logits"].size:
        where = rng.integers(0, feeds["gate_logits"].size, 2)
        feeds["gate_logits"].flat[where] = draw(st.sampled_from([NAN, INF, -INF]))


@st.composite
def staircases(draw: st.DrawFn) -> tuple[list[int], int]:
    """Counts whose totals m_n lie at and next to the edges of the small tiles, in any order of the tokens, and N."""
    edges = [0, 1, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65]
    n = draw(st.integers(1, 4))
    tokens = draw(st.sampled_from(edges[1:]))
    reach = sorted((min(draw(st.sampled_from(edges)), tokens) for _ in range(n)), reverse=True)
    counts = [sum(row < end for end in reach) for row in range(tokens)]
    return draw(st.permutations(counts)), n
