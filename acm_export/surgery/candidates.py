"""Guess at feed-forward networks without running a model: a hint where no example inputs can be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.surgery.linear_maps import linear_shape

if TYPE_CHECKING:
    from torch import nn

_NEXT = 3
"""A gated FFN registers gate, up and down; behind the first of them, down is at most two linear maps away."""


def candidates(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """List pairs of linear maps, by their names, that look like the two ends of an FFN.

    The second is registered close behind the first in the same transformer layer, and maps the width back. Only a
    survey with example inputs can tell whether they really follow each other.
    """
    maps = [(name, shape) for name, module in model.named_modules() if (shape := linear_shape(module)) is not None]
    found, ends = list[tuple[str, str]](), set[str]()
    for i, (first, up) in enumerate(maps):
        for second, down in maps[i + 1 : i + 1 + _NEXT]:
            back = down.out_features == up.in_features and up.out_features % down.in_features == 0
            wider = up.out_features > up.in_features
            if back and wider and _layer(first) == _layer(second) and not {first, second} & ends:
                found.append((first, second))
                ends |= {first, second}
    # The other branch of a gated FFN starts nothing: its down projection is taken.
    return tuple(found)


def _layer(name: str) -> str:
    """The part of a name up to its last number: the transformer layer that a module belongs to."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[: last + 1])
