"""Result of a quantisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject
    from acm_export.onnx_file.manifest import Manifest
    from acm_export.onnx_file.quantization.linears import Kept


@dataclass(frozen=True)
class QuantizedPart:
    """Something that runs in int8.

    Args:
        name: Name of the ACM layer, or of the weight.
        kind: ``learners``, ``linear`` or ``embedding``.
        error: Squared error of its output on sampled tokens, relative to the output without bias; of an embedding,
            relative to the table. None without data.
    """

    name: str
    kind: str
    error: float | None


@dataclass(frozen=True)
class Comparison:
    """The int8 file against the float file at one setting of the budget dial.

    Args:
        setting: Description of the thresholds, which are the same for both files.
        cosine: Cosine similarity of the outputs, mean over samples and outputs.
        least_cosine: The smallest one.
        max_error: Largest absolute difference of any output value.
        float_budget: Budget of the float file; None without ACM layers.
        int8_budget: Budget of the int8 file; None without ACM layers.
        rerouted: Share of the tokens, over all layers, that run another number of learners in the int8 file; None
            without ACM layers.
    """

    setting: str
    cosine: float
    least_cosine: float
    max_error: float
    float_budget: float | None
    int8_budget: float | None
    rerouted: float | None


@dataclass(frozen=True)
class CorrectedKnot:
    """The measured budget of a knot of the budget table.

    Args:
        before: In the float file.
        after: In the int8 file, with the same thresholds; None if the knot was dropped.
    """

    before: float
    after: float | None


@dataclass(frozen=True)
class QuantizationResult:
    """Result of a quantisation.

    Args:
        path: Path of the int8 file.
        data_path: Path of its external data, or None.
        manifest: Manifest of the int8 file.
        parts: What runs in int8, in the order of the graph.
        kept: What stays in float, and why; gates are not listed.
        bytes_before: Size of the float file and its external data.
        bytes_after: Size of the int8 file and its external data.
        samples: Number of samples that set the scales; 0 without data.
        compared_samples: Number of samples that the files were compared on; 0 without data.
        held_out: Whether these samples set no scale.
        comparisons: The int8 file against the float file; empty without data.
        knots: Corrected budgets of a calibrated file's table; empty if the table is as before.
        runtime: Name of the runtime that ran the files; None without data.
        notes: Notes for the reader.
    """

    path: Path
    data_path: Path | None
    manifest: Manifest
    parts: tuple[QuantizedPart, ...]
    kept: tuple[Kept, ...]
    bytes_before: int
    bytes_after: int
    samples: int
    compared_samples: int
    held_out: bool
    comparisons: tuple[Comparison, ...]
    knots: tuple[CorrectedKnot, ...]
    runtime: str | None
    notes: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """The object that ``quantize --json`` prints."""
        return {
            "output": str(self.path),
            "data": str(self.data_path) if self.data_path else None,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "manifest": self.manifest.to_json(),
            "quantized": [asdict(part) for part in self.parts],
            "kept": [asdict(item) for item in self.kept],
            "samples": self.samples,
            "compared_samples": self.compared_samples,
            "held_out": self.held_out,
            "comparisons": [asdict(item) for item in self.comparisons],
            "knots": [asdict(knot) for knot in self.knots],
            "runtime": self.runtime,
            "notes": list(self.notes),
        }
