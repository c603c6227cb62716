"""The dense model of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from acm_export.checkpoints import Checkpoint
    from acm_export.surgery import ModelInterface


@dataclass(frozen=True)
class Teacher:
    """A dense model, and how to run it.

    Args:
        model: Model; converted to float32 in place by a run.
        interface: How to run it.
        name: Name of its folder or class.
        sha256: Hex SHA-256 of its weights; empty for a model that was not read from a folder.
        folder: Folder with the settings of processors and the vocabulary, or None.
        part: Part of the folder's model, or None.
    """

    model: nn.Module
    interface: ModelInterface
    name: str
    sha256: str = ""
    folder: Path | None = None
    part: str | None = None

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Teacher:
        """The model of a checkpoint folder."""
        path = checkpoint.path
        return cls(checkpoint.model, checkpoint.interface, path.name, checkpoint.sha256, path, checkpoint.part)
