"""Compare an ONNX file with the checkpoint it was exported from, on real or random data."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.checkpoints import Checkpoint, load_checkpoint
from acm_export.data.open_data import open_data
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.surgery.examples import example_inputs
from acm_export.verification.compare import verify_model
from acm_export.verification.report import check_atol

if TYPE_CHECKING:
    from acm_export.base.files import StrPath
    from acm_export.data.open_data import Data
    from acm_export.verification.report import VerificationReport


def verify(
    model: StrPath,
    checkpoint: Checkpoint | StrPath,
    *,
    data: Data | None = None,
    processor: StrPath | None = None,
    samples: int = 4,
    atol: float | None = None,
    part: str | None = None,
) -> VerificationReport:
    """Compare an ONNX file with its checkpoint at the trained budget and at two other budgets.

    Args:
        model: Path of the ONNX file.
        checkpoint: Checkpoint folder, or a checkpoint from :func:`acm_export.checkpoints.load_checkpoint`, whose model
            is converted to float32.
        data: Samples in any form that :func:`acm_export.data.open_data.open_data` takes; by default random inputs.
        processor: Folder or file of the tokenizer or processor, if ``checkpoint`` has none.
        samples: Maximum number of samples to run.
        atol: Largest accepted absolute error; by default relative to the outputs.
        part: Part of the checkpoint that was exported, as for :func:`acm_export.checkpoints.load_checkpoint`; by
            default the one that the file names.

    Returns:
        Errors and routing disagreements; :attr:`VerificationReport.passed` says whether they are within tolerance.

    Raises:
        UsageError: The file does not exist, the data does not fit the model, or ``atol`` is negative or NaN.
        ModelFileError: The file cannot be read or loaded.
        CheckpointError: The checkpoint cannot be read.
        VerificationError: The layers or inputs of file and checkpoint differ.
    """
    check_atol(atol)
    if samples < 1:
        raise UsageError(f"the number of samples is {samples}; expected at least 1")
    path = Path(model)
    manifest = read_manifest(read_model(path), path)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(Path(checkpoint), part or manifest.source.part)
    if manifest.source.sha256 not in (None, checkpoint.sha256):
        warnings.warn(
            f"{path.name} was exported from {manifest.source.name}, whose weights differ from those of "
            f"{checkpoint.path}",
            AcmWarning,
            stacklevel=2,
        )
    inputs = _inputs(checkpoint, data, processor, samples)
    fields = checkpoint.interface.outputs
    exportable = Exportable(checkpoint.model.float(), list(inputs), torch.float32, fields).eval()
    return verify_model(path, exportable, inputs, atol=atol)


def _inputs(
    checkpoint: Checkpoint, data: Data | None, processor: StrPath | None, samples: int
) -> dict[str, torch.Tensor]:
    if data is None:
        if processor is not None:
            raise UsageError("--processor has no effect without --data", "give samples with --data")
        return example_inputs(checkpoint.interface, samples)
    dataset = open_data(
        data, checkpoint.interface.data_inputs(), model_folder=checkpoint.path, processor=processor, limit=samples
    )
    (batch,) = dataset.batches(samples)
    return {name: torch.from_numpy(array) for name, array in batch.feeds.items()}
