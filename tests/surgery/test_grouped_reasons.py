"""What was left of a model, in few lines."""

from __future__ import annotations

from acm_export.surgery import Left
from acm_export.surgery.sites import grouped


def test_parts_left_for_the_same_reason_share_a_line() -> None:
    left = (
        *(Left(f"stages.{i}.mlp", f"a convolution (stages.{i}.mlp.conv) between its linear maps") for i in range(3)),
        Left("head", "it maps width 12 to 4"),
        Left("layers.0.k", "it maps width 12 to 4"),
        Left("layers.1.k", "it maps width 12 to 8"),
    )
    assert grouped(left) == [
        "stages.*.mlp (3 times): a convolution (stages.*.mlp.conv) between its linear maps",
        "head: it maps width 12 to 4",
        "layers.*.k: it maps width 12 to 4",
        "layers.*.k: it maps width 12 to 8",
    ]
