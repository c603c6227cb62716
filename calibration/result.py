"""Result of a calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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

    def to_json(self) -> dict[str, Any]:
        """The object that ``calibrate --json`` prints."""
        record = self.manifest.calibration
        if record is None:
            raise ValueError("the manifest has no calibration")
        return {
            "output": str(self.path),
            "runtime": self.runtime,
            "calibration": asdict(record),
            "trained": asdict(self.trained),
            "comparisons": [
                {
                    "budget": c.budget,
                    "family": c.knot.family,
                    "rounds": c.knot.rounds,
                    "divergence": c.knot.measured.divergence,
                    "rivals": {name: rival.measured.divergence for name, rival in c.rivals.items()},
                }
                for c in self.comparisons
            ],
            "held_out": [{"requested": p.requested, "family": p.family, **asdict(p.measured)} for p in self.curves],
            "notes": list(self.notes),
        }
