"""How long work reports what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of long work and their batches."""

    def stage(self, title: str, batches: int | None) -> None:
        """A stage begins.

        Args:
            title: What is being done.
            batches: Number of batches or steps that it will take, about; None where that is unknown.
        """

    def batch(self, note: str = "") -> None:
        """One more batch or step is done.

        Args:
            note: A short result of it, such as a loss.
        """


class Silent:
    """Reports nothing."""

    def stage(self, title: str, batches: int | None) -> None:
        """Ignore the stage."""

    def batch(self, note: str = "") -> None:
        """Ignore the batch."""
