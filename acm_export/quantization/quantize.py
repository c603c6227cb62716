"""Quantise a file: decide what runs in int8, observe the float file on data, write int8, compare the two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.files import check_apart, check_onnx_suffix, check_writable, staging_folder
from acm_export.base.progress import Progress, Silent
from acm_export.quantization.options import Options
from acm_export.quantization.run import QuantizationRun
from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.base.files import StrPath
    from acm_export.data.open_data import Data
    from acm_export.quantization.result import QuantizationResult
    from acm_export.runtimes.onnx_runtime import Session

_RUNTIMES: dict[str, type[Session]] = {"cpu": CpuSession, "cuda": CudaSession}


def quantize(
    model: StrPath,
    output: StrPath,
    *,
    data: Data | None = None,
    processor: StrPath | None = None,
    samples: int = Options.samples,
    batch: int = Options.batch,
    activations: str = "static",
    weight_bits: int = 8,
    learners_only: bool = False,
    keep: Sequence[str] = (),
    embeddings: bool = False,
    migration: float = Options.migration,
    device: str = "cpu",
    progress: Progress | None = None,
) -> QuantizationResult:
    """Write an int8 version of an exported file: learners and dense linear layers run in int8, the rest in float.

    A calibrated file keeps its thresholds; with data, the budgets of its table are measured again in int8.

    Args:
        model: Path of an exported float32 or float16 file, for any target, with or without ACM layers.
        output: Path of the int8 file; may be that of ``model``.
        data: Samples, as :func:`acm_export.data.open_data.open_data` takes them; one in five is held out to compare
            the files. Required unless activations are dynamic.
        processor: Folder or file of the tokenizer or processor; by default that of the model.
        samples: Number of samples that set the scales, spread evenly over the data; the budget table of a calibrated
            file is measured on all data.
        batch: Largest batch size.
        activations: ``static`` for fixed scales, ``dynamic`` to scale each token at run time (ONNX Runtime only).
        weight_bits: 8, or 7 for x86 CPUs without VNNI, whose int8 products saturate.
        learners_only: Leave dense linear layers in float.
        keep: Patterns of names that stay in float: of ACM layers, weights, or modules of weights.
        embeddings: Store embedding tables in int8 too.
        migration: SmoothQuant's alpha: how much of the range of activations moves into the weights, 0 to 1.
        device: ``cpu`` or ``cuda``, which runs the files.
        progress: Receives stages and batches; silent by default.

    Returns:
        What runs in int8, with errors, sizes and budgets.

    Raises:
        UsageError: The data do not fit the model, an option is out of range, or a pattern matches nothing.
        ModelFileError: The file is broken, not from acm-export, already quantised, or bf16.
        QuantizationError: The data set no scale for a layer.
        OutputError: The int8 file cannot be written; existing files are unchanged.
    """
    path, target = Path(model), Path(output)
    options = Options(activations, weight_bits, learners_only, tuple(keep), embeddings, migration, samples, batch)
    if device not in _RUNTIMES:
        raise UsageError(f"unknown device {device!r}", f"choose one of {', '.join(_RUNTIMES)}")
    check_onnx_suffix(target)
    check_apart([Path(data)] if isinstance(data, (str, os.PathLike)) else [], {"-o": target})
    if data is None and not options.dynamic:
        raise UsageError(
            "static activations need data for their scales",
            "give samples with --data, or scale each token at run time with --activations dynamic",
        )
    check_writable(target)
    with staging_folder(target) as staging:
        run = QuantizationRun(path, staging, options, _RUNTIMES[device], progress or Silent())
        if data is not None:
            run.observe(data, processor)
        return run.result(target)
