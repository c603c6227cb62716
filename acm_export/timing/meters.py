"""Where budgets are measured: in ONNX Runtime, which shows gate logits and learner counts, or nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.timing import routing

if TYPE_CHECKING:
    from acm_export.data.batches import Arrays
    from acm_export.runtimes.session import TappedSession
    from acm_export.timing.inputs import Feeds
    from acm_export.timing.routing import Thresholds


class SessionMeter:
    """Runs the ONNX file with its counts and gate logits as outputs.

    Args:
        session: Of that file.
    """

    def __init__(self, session: TappedSession) -> None:
        self._session: TappedSession | None = session

    def budget(self, feeds: Feeds, thresholds: Thresholds | None, dials: Arrays) -> float | None:  # noqa: ARG002
        """β at those thresholds."""
        return None if thresholds is None else routing.measured_budget(self._opened, feeds, thresholds)

    def skewed(self, feeds: Feeds, start: Thresholds, max_learners: int | None) -> Thresholds:
        """The worst skew, layer by layer."""
        return routing.skewed(self._opened, feeds, start, max_learners)

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    @property
    def _opened(self) -> TappedSession:
        if self._session is None:
            raise ValueError("the meter is closed")
        return self._session


class NoMeter:
    """Nothing shows what runs inside."""

    def budget(self, feeds: Feeds, thresholds: Thresholds | None, dials: Arrays) -> None:
        """Not known."""

    def skewed(self, feeds: Feeds, start: Thresholds, max_learners: int | None) -> None:
        """Not known."""

    def close(self) -> None:
        """Nothing to give back."""
