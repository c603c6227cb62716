"""Verify a file on disk against a checkpoint on disk, on real or random data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.npz import load_npz
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.surgery.examples import example_inputs
from acm_export.verification.compare import verify_model

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint
    from acm_export.surgery import InputSpec
    from acm_export.verification.report import VerificationReport


def verify_file(
    path: Path,
    checkpoint: Checkpoint,
    *,
    data: Path | None = None,
    samples: int = 4,
    atol: float | None = None,
) -> VerificationReport:
    """Compare a file with a checkpoint.

    Args:
        path: The ONNX file.
        checkpoint: What it should compute; is moved to float32.
        data: ``.npz`` with arrays named as the inputs; random inputs by default.
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
    specs = checkpoint.family.inputs(checkpoint.model.config)
    if data is None:
        inputs = example_inputs(checkpoint.model, checkpoint.family, samples)
    else:
        arrays = load_npz(data, {spec.name: spec.shape for spec in specs})
        inputs = {spec.name: torch.from_numpy(_cast(arrays[spec.name][:samples], spec)) for spec in specs}
    fields = checkpoint.family.outputs[type(checkpoint.model).__name__]
    model = Exportable(checkpoint.model.float(), list(inputs), torch.float32, fields).eval()
    return verify_model(path, model, inputs, atol=atol)


def _cast(array: np.ndarray[Any, Any], spec: InputSpec) -> np.ndarray[Any, Any]:
    """Whole numbers and booleans in the width that the model takes.

    Raises:
        UsageError: Floats where it takes whole numbers, or the other way round.
    """
    if (array.dtype.kind == "f") != (np.dtype(spec.dtype).kind == "f"):
        raise UsageError(f"{spec.name} is {array.dtype}, the model takes {spec.dtype}")
    return array.astype(spec.dtype)
