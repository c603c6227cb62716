"""What a choice of ``--runtime`` has to offer: reading the file, measuring β, loading it and its baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.timing.device import Device
    from acm_export.timing.inputs import Feeds
    from acm_export.timing.result import ModelFile, RuntimeInfo
    from acm_export.timing.routing import Thresholds
    from acm_export.timing.runtime import Runtime

ENGINES = (".plan", ".engine", ".trt")
"""How the names of engines end."""


@dataclass(frozen=True)
class TimedFile:
    """A file that was read and can be timed.

    Args:
        path: The file.
        manifest: Its manifest, or that of the file it was built from.
        inputs: What every run has to be fed; dials are not among them.
        stored: The thresholds that it is set to; None where they are not known.
        takes_thresholds: Whether a call can give thresholds, so that any routing can be asked for.
        takes_budget: Whether a call can give a budget, which the file itself turns into thresholds.
        source: The ONNX file that an engine was built from; None where the file is the ONNX file itself.
        gives_counts: Whether learner counts are among its outputs.
        profiles: Smallest, best and largest shape of inputs; none where any shape will do.
    """

    path: Path
    manifest: Manifest
    inputs: tuple[GraphInput, ...]
    stored: Thresholds | None
    takes_thresholds: bool = True
    takes_budget: bool = False
    source: ModelFile | None = None
    gives_counts: bool = False
    profiles: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)


class Meter(Protocol):
    """Measures budgets by running inputs once, before anything is timed."""

    def budget(self, feeds: Feeds, thresholds: Thresholds | None, dials: Arrays) -> float | None:
        """β of inputs; None where learner counts cannot be seen.

        Args:
            feeds: All of its batches count.
            thresholds: That the run stands for; None where only the model holds them.
            dials: What the timed run is fed for them.
        """

    def skewed(self, feeds: Feeds, start: Thresholds, max_learners: int | None) -> Thresholds | None:
        """Thresholds of the worst skew at the same budget; None where gate logits cannot be seen."""

    def close(self) -> None:
        """Give back memory, before anything is timed."""


class Backend(Protocol):
    """One of ``--runtime``, with what it was given beside the file."""

    on_gpu: bool
    graphs: bool
    """Whether it can launch its work as a CUDA graph."""

    def read(self, path: Path) -> TimedFile:
        """Read a file and refuse what cannot be timed.

        Raises:
            AcmError: It is broken, or not for this runtime.
        """

    def info(self) -> RuntimeInfo:
        """Name, version and execution provider."""

    def place(self) -> Device:
        """The device that it runs on."""

    def meter(self, file: TimedFile) -> Meter:
        """Of the budgets of a file."""

    def load(self, file: TimedFile, *, own_thresholds: bool) -> Runtime:
        """Load a file.

        Args:
            file: From :meth:`read`.
            own_thresholds: Whether it computes its thresholds itself, or is fed them.

        Raises:
            AcmError: The runtime is missing or refuses the file.
        """

    def baseline_inputs(self, path: Path) -> tuple[GraphInput, ...]:
        """What a baseline has to be fed.

        Raises:
            AcmError: It is none that this runtime could run.
        """

    def baseline_digest(self, path: Path) -> str:
        """SHA-256 of a baseline, or of its weights."""

    def load_baseline(self, path: Path) -> Runtime:
        """Load a baseline, as it is."""
