"""What latency needs of whatever runs a model: contexts that run it, and the times that only they can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from acm_export.data.batches import Arrays, GraphInput


@dataclass(frozen=True)
class Times:
    """Of one run, apart from its time on the host; None where the runtime does not tell.

    Args:
        device_ms: On the device alone, without transfers.
        enqueue_ms: That the host took to hand the work to the device.
        transfer_ms: Of inputs to the device and outputs back.
    """

    device_ms: float | None = None
    enqueue_ms: float | None = None
    transfer_ms: float | None = None


UNTOLD = Times()


class RunContext(Protocol):
    """Runs a loaded model, from one thread at a time."""

    def run(self, feeds: Arrays) -> Times:
        """Run once, from arrays in host memory to outputs in host memory.

        Args:
            feeds: The inputs, and the thresholds or the budget where the model takes them.
        """

    def close(self) -> None:
        """Give back what the context alone holds; it cannot run any more."""


class Runtime(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> tuple[GraphInput, ...]:
        """What every run has to be fed, dials included."""

    def context(self) -> RunContext:
        """One more context; contexts run at once, each in a thread of its own."""

    def close(self) -> None:
        """Give back memory and threads, once the contexts are closed."""
