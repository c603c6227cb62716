"""How a file was quantised: the part of the manifest that ``quantize`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acm_export.base.json_fields import SHARE_OR_NULL, TEXT_OR_NULL, WHOLE, Kind, checked

ACTIVATIONS = ("static", "dynamic")
WEIGHT_BITS = (7, 8)


@dataclass(frozen=True)
class Quantization:
    """How ``quantize`` made a file int8. Which ACM layers run in int8 is in :attr:`LayerEntry.activations`.

    Args:
        activations: ``static`` (fixed scales from data) or ``dynamic`` (each token is scaled at run time).
        weight_bits: 8, or 7 for CPUs whose int8 products saturate.
        linears: Names of the dense linear layers in int8: their weight initializers.
        kept: Names of ACM layers and of weights of linear layers that stay in float because the user asked for it.
        embeddings: Names of embedding tables stored in int8.
        migration: SmoothQuant's alpha; None without migration.
        data_sha256: SHA-256 of the samples that set the scales, or None without data.
        samples: Number of samples that set the scales; 0 without data.
    """

    activations: str
    weight_bits: int
    linears: tuple[str, ...]
    kept: tuple[str, ...]
    embeddings: tuple[str, ...]
    migration: float | None
    data_sha256: str | None
    samples: int

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Quantization:
        """Parse the manifest's JSON object.

        Raises:
            BrokenFieldError: A field is missing, unknown or invalid.
        """
        fields = checked(content, _FIELDS, "quantization.")
        names = {key: tuple(fields[key]) for key in ("linears", "kept", "embeddings")}
        return cls(**(fields | names))


_NAMES = Kind("a list of names", lambda value: isinstance(value, list) and all(isinstance(n, str) for n in value))
_FIELDS = {
    "activations": Kind('"static" or "dynamic"', lambda value: value in ACTIVATIONS),
    "weight_bits": Kind("7 or 8", lambda value: type(value) is int and value in WEIGHT_BITS),
    "linears": _NAMES,
    "kept": _NAMES,
    "embeddings": _NAMES,
    "migration": SHARE_OR_NULL,
    "data_sha256": TEXT_OR_NULL,
    "samples": WHOLE,
}
