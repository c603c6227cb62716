"""Calibrate a file: open it and the data, find the budget table, and write the new file."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.files import check_apart, check_onnx_suffix, check_writable
from acm_export.base.progress import Progress, Silent
from acm_export.calibration.budgets import requested_budgets
from acm_export.calibration.run import CalibrationRequest, CalibrationRun
from acm_export.onnx_file import budget_input as budget_dial
from acm_export.onnx_file.file_data import open_file_data
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.rewrite import write_calibrated
from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from acm_export.calibration.result import CalibrationResult
    from acm_export.data.open_data import Data

_RUNTIMES = {"cpu": CpuSession, "cuda": CudaSession}


def calibrate(
    model: str | os.PathLike[str],
    data: Data,
    budgets: Iterable[float],
    output: str | os.PathLike[str],
    *,
    flops: Iterable[float] = (),
    latency_targets: Iterable[float] = (),
    latency_file: str | os.PathLike[str] | None = None,
    solver: str = "sensitivity",
    budget_input: bool = False,
    processor: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    probe_samples: int = 256,
    batch: int = 32,
    precision: float | None = None,
    device: str = "cpu",
    examples: bool = False,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Find gate thresholds for budgets on data, and write a file with a table from budgets to thresholds.

    The new file is set to the trained thresholds, τ = 0; with ``budget_input``, its default is their budget.

    Args:
        model: Path of an exported file, for any target.
        data: Samples, as :func:`acm_export.data.open_data.open_data` takes them; four in five build the table, one
            is held out to check it.
        budgets: Budgets that the table must meet, shares β of learner FLOPs in [0, 1]; may be empty.
        output: Path of the new file; may be that of ``model``.
        flops: Budgets as FLOPs of the whole model for one sample.
        latency_targets: Budgets as milliseconds on the device that ``latency_file`` was measured on.
        latency_file: Result of ``acm-export latency`` for this file (JSON).
        solver: One of :data:`acm_export.calibration.run.SOLVERS`.
        budget_input: Give the graph an input ``budget``.
        processor: Folder or file of the tokenizer or processor; by default that of the model.
        samples: Largest number of samples; the first ones are used. None for all.
        probe_samples: Number of samples with which the solver ``sensitivity`` probes each learner.
        batch: Batch size.
        precision: Largest accepted value of two standard errors of a requested budget; None for any.
        device: ``cpu`` or ``cuda``, which runs the model.
        examples: Keep some held-out images or waveforms with their learner counts, for a report.
        progress: Receives stages and batches; silent by default.

    Returns:
        The new file's manifest, and what was measured.

    Raises:
        UsageError: The data do not fit the model, or an option is out of range.
        CalibrationError: A budget cannot be reached, or not closely enough on these data; or a gate gives NaN.
        ModelFileError: The model file is broken, not from acm-export, or has no ACM layers.
        OutputError: The new file, or a temporary one, cannot be written; existing files are unchanged.
    """
    path, target = Path(model), Path(output)
    if device not in _RUNTIMES:
        raise UsageError(f"unknown device {device!r}", f"choose one of {', '.join(_RUNTIMES)}")
    check_onnx_suffix(target)
    check_apart([Path(data)] if isinstance(data, (str, os.PathLike)) else [], {"-o": target})
    request = CalibrationRequest(
        budgets=requested_budgets(
            path, budgets, flops, latency_targets, None if latency_file is None else Path(latency_file)
        ),
        solver=solver,
        budget_input=budget_input,
        probe_samples=probe_samples,
        batch=batch,
        precision=precision,
        examples=examples,
    )
    check_writable(target)
    if budget_input:
        _check_no_input(path)
    session = TappedSession(path, _RUNTIMES[device])
    dataset = open_file_data(
        data, session.inputs, path=path, manifest=session.manifest, processor=processor, limit=samples
    )
    with closing(CalibrationRun(request, session, dataset, progress or Silent())) as run:
        result = run.result(target)
    write_calibrated(path, result.manifest, target)
    return result


def _check_no_input(path: Path) -> None:
    model = read_model(path)
    if not read_manifest(model, path).budget_input:
        budget_dial.check_free(model)
