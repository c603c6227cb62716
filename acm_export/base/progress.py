"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told of stages and batches."""

    def stage(self, title: str, batches: int | None) -> None:
        """A stage begins; it will take about so many batches, or nobody knows how many."""

    def batch(self) -> None:
        """One more batch is done."""


class Silent:
    """Tells nobody."""

    def stage(self, title: str, batches: int | None) -> None:
        """Nothing."""

    def batch(self) -> None:
        """Nothing."""
