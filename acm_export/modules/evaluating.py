"""A context manager for evaluation mode."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode inside the block, and restore the mode of every submodule afterwards."""
    training = {name for name, child in module.named_modules() if child.training}
    module.eval()
    try:
        yield
    finally:
        for name, child in module.named_modules():
            child.training = name in training
