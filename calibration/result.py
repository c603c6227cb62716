"""What a calibration gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.calibration.examples import Example
    from acm_export.calibration.table import Comparison, Knot
    from acm_export.data.batches import Survey
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.verification.measurement import Measurement


@dataclass(frozen=True)
class CurvePoint:
    """A setting on held-out data: what was asked for, which family it comes from, and what was measured."""

    requested: float
    family: str
    measured: Measurement


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found and wrote.

    Args:
        path: The new file.
        manifest: Its manifest; ``manifest.calibration`` has the table.
        runtime: What ran the model.
        survey: Of the data.
        knots: Of the table, ascending, with what was measured on the calibration data.
        comparisons: With the rivals, on the calibration data.
        curves: The table and its rivals on held-out data, ascending; empty without held-out data.
        trained: τ = 0, on the calibration data.
        examples: Held-out images or waveforms with their learner counts, cheapest first.
        notes: What a reader must know.
    """

    path: Path
    manifest: Manifest
    runtime: str
    survey: Survey
    knots: tuple[Knot, ...]
    comparisons: tuple[Comparison, ...]
    curves: tuple[CurvePoint, ...]
    trained: Measurement
    examples: tuple[Example, ...]
    notes: tuple[str, ...]
