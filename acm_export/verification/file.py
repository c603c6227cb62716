"""Compare an ONNX file with the checkpoint it was exported from, on real or random data."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.file_kinds import NPZ, file_kind
from acm_export.base.files import check_input
from acm_export.checkpoints import Checkpoint, load_checkpoint
from acm_export.data.npz import load_npz
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.surgery.examples import example_inputs
from acm_export.verification.compare import verify_model
from acm_export.verification.report import check_atol

if TYPE_CHECKING:
    from acm_export.base.files import StrPath
    from acm_export.surgery import InputSpec
    from acm_export.verification.report import VerificationReport


def verify(
    model: StrPath,
    checkpoint: Checkpoint | StrPath,
    *,
    data: StrPath | None = None,
    samples: int = 4,
    atol: float | None = None,
) -> VerificationReport:
    """Compare an ONNX file with its checkpoint at the trained budget and at two others.

    Args:
        model: Path of the ONNX file.
        checkpoint: Checkpoint folder, or a checkpoint from :func:`acm_export.checkpoints.load_checkpoint`, whose model
            is converted to float32.
        data: Path of an ``.npz`` file with arrays named like the model's inputs; by default random inputs.
        samples: Number of samples to run; at most those of ``data``.
        atol: Largest accepted absolute error; by default relative to the outputs.

    Returns:
        Errors and routing disagreements; :attr:`VerificationReport.passed` says whether they are within tolerance.

    Raises:
        UsageError: There is no such file, the data does not fit the model, or ``atol`` is negative or NaN.
        ModelFileError: The file cannot be read or loaded.
        CheckpointError: The checkpoint cannot be read.
        VerificationError: The layers or inputs of file and checkpoint differ.
    """
    check_atol(atol)
    path = Path(model)
    manifest = read_manifest(read_model(path), path)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(Path(checkpoint))
    if manifest.source.sha256 not in (None, checkpoint.sha256):
        warnings.warn(
            f"{path.name} was exported from {manifest.source.name}, whose weights differ from those of "
            f"{checkpoint.path}",
            AcmWarning,
            stacklevel=2,
        )
    inputs = _inputs(checkpoint, None if data is None else Path(data), samples)
    fields = checkpoint.family.outputs[type(checkpoint.model).__name__]
    exportable = Exportable(checkpoint.model.float(), list(inputs), torch.float32, fields).eval()
    return verify_model(path, exportable, inputs, atol=atol)


def _inputs(checkpoint: Checkpoint, data: Path | None, samples: int) -> dict[str, torch.Tensor]:
    if data is None:
        return example_inputs(checkpoint.model, checkpoint.family, samples)
    check_input(data)
    if (kind := file_kind(data)) not in (None, NPZ):
        raise UsageError(f"{data} is {kind.description}; --data takes an .npz file", kind.hint)
    specs = checkpoint.family.inputs(checkpoint.model.config)
    arrays = load_npz(data, {spec.name: spec.shape for spec in specs})
    return {spec.name: torch.from_numpy(_cast(arrays[spec.name][:samples], spec)) for spec in specs}


def _cast(array: np.ndarray[Any, Any], spec: InputSpec) -> np.ndarray[Any, Any]:
    """Cast integers and booleans to the width of the input.

    Raises:
        UsageError: The array holds floats and the input integers, or the other way round.
    """
    if (array.dtype.kind == "f") != (np.dtype(spec.dtype).kind == "f"):
        raise UsageError(f"{spec.name} is {array.dtype}; the model takes {spec.dtype}")
    return array.astype(spec.dtype)
