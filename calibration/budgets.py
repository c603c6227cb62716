"""Budgets as users request them: shares of learner FLOPs, FLOPs of the whole model, or milliseconds on a device."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

from acm_export.base.durations import parse_duration
from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.file_kinds import not_a
from acm_export.base.files import sha256_of
from acm_export.base.json_fields import NUMBER_OR_NULL, TEXT, TEXT_OR_NULL, WHOLE, BrokenFieldError, checked
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from acm_export.onnx_file.manifest import Manifest

_POOR_FIT = 0.9
_LATENCY_SCHEMA = 1
_MODEL = {"file": TEXT, "sha256": TEXT_OR_NULL}
_FIT = {"fixed_ms": NUMBER_OR_NULL, "ms_per_budget": NUMBER_OR_NULL, "r2": NUMBER_OR_NULL}
_MEASURE = "acm-export latency MODEL --budgets 0.25,0.5,1 -o FILE"
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def requested_budgets(
    model: Path,
    shares: Iterable[float],
    flops: Iterable[float] = (),
    latency_targets: Iterable[float] = (),
    latency_file: Path | None = None,
) -> list[float]:
    """All requested budgets as β, ascending.

    Args:
        model: Path of the ONNX file.
        shares: Budgets as shares of learner FLOPs.
        flops: Budgets as FLOPs of the whole model for one sample.
        latency_targets: Budgets as milliseconds on the device.
        latency_file: Result of ``acm-export latency``, which converts times to budgets.

    Raises:
        UsageError: A budget is out of range, or times and their file are not given together.
    """
    budgets, times = set(shares), list(latency_targets)
    if outside := [budget for budget in budgets if not 0 <= budget <= 1]:
        raise UsageError(f"the budget {outside[0]:g} is out of range", "give shares of learner FLOPs, from 0 to 1")
    if bool(times) != (latency_file is not None):
        given, other = ("target", "file") if times else ("file", "target")
        raise UsageError(
            f"--latency-{given} needs --latency-{other}",
            f"give the result of: {_MEASURE}" if times else "give latencies, as in --latency-target 4ms,6ms",
        )
    manifest = read_manifest(read_model(model), model)
    budgets |= {budget_of_flops(manifest, value) for value in flops}
    if latency_file is not None:
        budgets |= {budget_of_latency(milliseconds, latency_file, model) for milliseconds in times}
    return sorted(budgets)


def budget_of_flops(manifest: Manifest, flops: float) -> float:
    """β at which one sample of the example's size takes a number of FLOPs.

    Args:
        manifest: Manifest of the model.
        flops: FLOPs of the whole model.

    Raises:
        UsageError: The model takes more FLOPs even without learners, or fewer even with all of them.
    """
    learners = manifest.all_learners_flops
    budget = (flops - manifest.fixed_flops) / learners if learners else -1.0
    if not 0 <= budget <= 1:
        raise UsageError(
            f"{flops:.4g} FLOPs are out of reach: this model takes {manifest.model_flops(0):.4g} without learners "
            f"and {manifest.model_flops(1):.4g} with all of them",
            "give a number between these two",
        )
    return budget


def parse_flops(text: str) -> float:
    """Read a number of FLOPs such as 17.5G.

    Raises:
        UsageError: The text is not a number of FLOPs.
    """
    text = text.strip()
    try:
        return float(text[:-1]) * _SUFFIXES[text[-1]] if text[-1:] in _SUFFIXES else float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number of FLOPs", "write it as 17.5G, 900M or 1.75e10") from error


def parse_milliseconds(text: str) -> float:
    """Read a time such as 4ms; a number without a unit is in milliseconds.

    Raises:
        UsageError: The text is not a duration above 0.
    """
    milliseconds = parse_duration(text, "ms")
    if not milliseconds:
        raise UsageError(f"the time is {text}; it must be above 0", "write it as 4ms")
    return milliseconds


def budget_of_latency(milliseconds: float, latency_file: Path, model: Path) -> float:
    """β at which the model has a latency, by the line fitted to measurements on the target device.

    Args:
        milliseconds: Target latency.
        latency_file: Result of ``acm-export latency`` (JSON).
        model: Path of the ONNX file to calibrate, which must be the one that was measured.

    Returns:
        β, at most 1.

    Raises:
        UsageError: The file is broken, for another model or without a fit, or the target is below the fixed cost.
    """
    fixed, per_budget, r2 = _fitted_line(latency_file, model)
    if r2 is not None and r2 < _POOR_FIT:
        warnings.warn(f"latency hardly depends on the budget in {latency_file}: R² {r2:.2f}", AcmWarning, stacklevel=2)
    if milliseconds <= fixed:
        raise UsageError(
            f"{milliseconds:g} ms are out of reach: the model takes {fixed:.4g} ms without learners and "
            f"{fixed + per_budget:.4g} ms with all of them",
            "give a time between these two",
        )
    return min((milliseconds - fixed) / per_budget, 1.0)


def _fitted_line(latency_file: Path, model: Path) -> tuple[float, float, float | None]:
    """Fixed milliseconds, milliseconds for all learners, and R² of the fit."""
    try:
        content = json.loads(latency_file.read_text(encoding="utf-8"))
        schema = content["schema"]
        if WHOLE.holds(schema) and schema > _LATENCY_SCHEMA:
            raise UsageError(
                f"{latency_file} has schema {schema}; this version reads up to {_LATENCY_SCHEMA}", "update acm-export"
            )
        origin = content.get("source") or content["model"]  # the source of an engine is an ONNX file
        measured = checked(origin, _MODEL, "model.")["sha256"]
        line = None if content["fit"] is None else checked(content["fit"], _FIT, "fit.")
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {latency_file}", f"write one with: {_MEASURE}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BrokenFieldError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            not_a(latency_file, "a result of acm-export latency", reason),
            f"write one with: {_MEASURE}",
        ) from error
    if measured != (own := sha256_of(model)):
        raise UsageError(
            f"{latency_file} was measured on another model: sha256 {(measured or 'unknown')[:12]}...; {model} has "
            f"{own[:12]}...",
            f"measure the file that you calibrate: {_MEASURE}",
        )
    if line is None or line["fixed_ms"] is None or not (line["ms_per_budget"] or 0) > 0:
        raise UsageError(
            f"{latency_file} has no fit of latency against budget", "measure at least three different budgets"
        )
    return float(line["fixed_ms"]), float(line["ms_per_budget"]), line["r2"]
