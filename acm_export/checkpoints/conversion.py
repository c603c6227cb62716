"""``convert``: turn a file of the ACM authors' code into a checkpoint folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.files import sha256_of
from acm_export.checkpoints.folder import save_checkpoint
from acm_export.checkpoints.reference import convert_reference
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from acm_export.base.json_fields import JsonObject


@dataclass(frozen=True)
class ConversionResult:
    """Result of a conversion.

    Args:
        output: Checkpoint folder.
        num_layers: Number of ACM layers; 0 for a dense model.
        num_learners: N, or None for a dense model.
        inferred: One line for each value that was inferred from the weights, for the user to check.
        source: Origin of the weights: format, file name, SHA-256.
    """

    output: Path
    num_layers: int
    num_learners: int | None
    inferred: tuple[str, ...]
    source: Mapping[str, str]

    def to_json(self) -> JsonObject:
        """The object that ``convert --json`` prints."""
        return asdict(self) | {"output": str(self.output), "inferred": list(self.inferred)}


def convert(
    reference: str | PathLike[str],
    output: str | PathLike[str],
    *,
    num_heads: int | None = None,
    num_learners: int | None = None,
    min_learners: Mapping[str, int] | None = None,
) -> ConversionResult:
    """Turn a file of the ACM authors' code into a checkpoint folder. No code named in the file is run.

    Args:
        reference: ``.pth`` file saved by that code, or its ``model_state`` as ``.safetensors``.
        output: Checkpoint folder to create.
        num_heads: Number of attention heads; required unless the file records it.
        num_learners: N; by default inferred from b2 or the widest gate.
        min_learners: Learners that always run, by a part of the layer's name, as in ``{"q_proj": 1}``; by default
            inferred from the gates.

    Returns:
        The folder that was written, and the values that were inferred.

    Raises:
        CheckpointError: The file cannot be read safely, or contradicts itself or the options.
        UsageError: An option does not fit the file.
        OutputError: The folder cannot be written.
    """
    path, folder = Path(reference), Path(output)
    converted = convert_reference(path, num_heads=num_heads, num_learners=num_learners, min_learners=min_learners)
    source = {"format": "adaptive_computation_modules", "file": path.name, "sha256": sha256_of(path)}
    save_checkpoint(converted.model, folder, source=source)
    num_layers = len(dict(acm_layers(converted.model)))
    return ConversionResult(folder, num_layers, converted.num_learners, converted.inferred, source)
