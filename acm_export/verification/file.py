"""Verify a file on disk against a checkpoint on disk, on real or random data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import AcmWarning
from acm_export.data.open_data import open_data
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.surgery.examples import example_inputs
from acm_export.verification.compare import verify_model

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.open_data import Data
    from acm_export.verification.report import VerificationReport


def verify_file(
    path: Path,
    checkpoint: Checkpoint,
    *,
    data: Data | None = None,
    processor: str | os.PathLike[str] | None = None,
    samples: int = 4,
    atol: float | None = None,
) -> VerificationReport:
    """Compare a file with a checkpoint.

    Args:
        path: The ONNX file.
        checkpoint: What it should compute; is moved to float32.
        data: Samples, as :func:`acm_export.data.open_data.open_data` takes them; random inputs by default.
        processor: Folder or file of the image processor's settings, where they are elsewhere.
        samples: Samples to run, at most.
        atol: Largest absolute error that is accepted; by default relative to the outputs.

    Returns:
        What was found.
    """
    manifest = read_manifest(read_model(path), path)
    if manifest.source.sha256 not in (None, checkpoint.sha256):
        warnings.warn(
            f"{path.name} was exported from {manifest.source.name}, whose weights differ from {checkpoint.path}",
            AcmWarning,
            stacklevel=2,
        )
    if data is None:
        inputs = example_inputs(checkpoint.model, checkpoint.family, samples)
    else:
        specs = checkpoint.family.data_inputs(checkpoint.model.config)
        dataset = open_data(data, specs, model_folder=checkpoint.path, processor=processor, limit=samples)
        (batch,) = dataset.batches(samples)
        inputs = {name: torch.from_numpy(array) for name, array in batch.feeds.items()}
    fields = checkpoint.family.outputs[type(checkpoint.model).__name__]
    model = Exportable(checkpoint.model.float(), list(inputs), torch.float32, fields).eval()
    return verify_model(path, model, inputs, atol=atol)
