"""The interface through which long-running work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages and batches of long-running work."""

    def stage(self, title: str, batches: int | None) -> None:
        """Start a stage.

        Args:
            title: What the stage does.
            batches: Approximate number of batches; None if unknown.
        """

    def batch(self, note: str = "") -> None:
        """Count one finished batch.

        Args:
            note: Text to show beside the rate, such as a loss.
        """


class Silent:
    """Progress that shows nothing."""

    def stage(self, title: str, batches: int | None) -> None:
        """Do nothing."""

    def batch(self, note: str = "") -> None:
        """Do nothing."""
