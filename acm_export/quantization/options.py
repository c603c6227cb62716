"""Options of a quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.onnx_file.quantization_record import ACTIVATIONS, WEIGHT_BITS
from acm_export.quantization.scales import weight_levels

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Options:
    """What to quantise, and how.

    Args:
        activations: ``static`` for fixed scales from data, ``dynamic`` to scale each token at run time.
        weight_bits: 8, or 7 for CPUs whose int8 products saturate.
        learners_only: Whether dense linear layers stay in float.
        keep: Patterns of the names of layers that stay in float, as in :mod:`fnmatch`.
        embeddings: Whether to store embedding tables in int8.
        migration: SmoothQuant's alpha, 0 to 1; 0 for no migration.
        samples: Number of samples that set the scales.
        batch: Largest batch size.

    Raises:
        UsageError: A value is out of range.
    """

    activations: str = "static"
    weight_bits: int = 8
    learners_only: bool = False
    keep: Sequence[str] = ()
    embeddings: bool = False
    migration: float = 0.8
    samples: int = 256
    batch: int = 32

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise UsageError(f"unknown activations {self.activations!r}", f"choose one of {', '.join(ACTIVATIONS)}")
        if self.weight_bits not in WEIGHT_BITS:
            raise UsageError(
                f"the number of weight bits is {self.weight_bits}; expected 7 or 8",
                "8 is more exact; 7 avoids saturation on x86 CPUs without VNNI",
            )
        if not 0 <= self.migration <= 1:
            raise UsageError(
                f"the migration is {self.migration:g}; expected 0 to 1",
                f"{Options.migration:g} is the default, 0 is none",
            )
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")

    @property
    def levels(self) -> int:
        """Largest absolute value of an int8 weight."""
        return weight_levels(self.weight_bits)

    @property
    def dynamic(self) -> bool:
        """Whether each token is scaled at run time."""
        return self.activations == "dynamic"
