"""Result of a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.calibration.data import Survey
    from acm_export.calibration.examples import Example
    from acm_export.calibration.knots import Comparison, Knot
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.verification.measurement import Measurement


@dataclass(frozen=True)
class CurvePoint:
    """A setting measured on held-out data.

    Args:
        requested: Requested β.
        family: Name of the family that the thresholds come from.
        measured: Measurement on held-out data.
    """

    requested: float
    family: str
    measured: Measurement


@dataclass(frozen=True)
class CalibrationResult:
    """Result of a calibration.

    Args:
        path: Path of the new file.
        manifest: Manifest of the new file; ``manifest.calibration`` has the table.
        runtime: Name of the runtime that ran the model.
        survey: Size and hash of the data.
        knots: Knots of the table, ascending, measured on the calibration data.
        comparisons: Comparisons with simpler solvers, on the calibration data.
        curves: The table and simpler solvers on held-out data, ascending; empty without held-out data.
        trained: Measurement at τ = 0, on the calibration data.
        examples: Held-out images or waveforms with their learner counts, cheapest first.
        notes: Notes for the reader.
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
