"""A module in evaluation mode for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While the block runs, nothing drops anything; afterwards each part is in the mode that it was in."""
    training = {name for name, child in module.named_modules() if child.training}
    module.eval()
    try:
        yield
    finally:
        for name, child in module.named_modules():
            child.training = name in training
