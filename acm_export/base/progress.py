"""How long-running work reports what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives stages and batches."""

    def stage(self, title: str, batches: int | None) -> None:
        """A stage begins.

        Args:
            title: What is done in it.
            batches: How many batches it takes, about; None where that is not known.
        """

    def batch(self, note: str = "") -> None:
        """One more batch is done.

        Args:
            note: Shown beside the rate, such as a loss.
        """


class Silent:
    """Shows nothing."""

    def stage(self, title: str, batches: int | None) -> None:
        """Do nothing."""

    def batch(self, note: str = "") -> None:
        """Do nothing."""
