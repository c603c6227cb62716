"""Budgets as users state them: shares of learner FLOPs, FLOPs of the whole model, or milliseconds on a device."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.files import sha256_of
from acm_export.base.json_fields import NUMBER_OR_NULL, TEXT, TEXT_OR_NULL, WHOLE, BrokenFieldError, checked
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.onnx_file.manifest import Manifest

_POOR_FIT = 0.9
_LATENCY_SCHEMA = 1
_MODEL = {"file": TEXT, "sha256": TEXT_OR_NULL}
_FIT = {"fixed_ms": NUMBER_OR_NULL, "ms_per_budget": NUMBER_OR_NULL, "r2": NUMBER_OR_NULL}
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def requested_budgets(
    model: Path, shares: list[float], flops: str | None, latency_target: str | None, latency_file: Path | None
) -> list[float]:
    """All budgets that a user asks for, as β.

    Args:
        model: The ONNX file.
        shares: β.
        flops: FLOPs of the whole model, separated by commas.
        latency_target: Times, separated by commas.
        latency_file: What the times are translated by.

    Raises:
        UsageError: One is none, or out of reach.
    """
    budgets = list(shares)
    manifest = read_manifest(read_model(model), model)
    if flops:
        budgets += [budget_of_flops(manifest, parse_flops(text)) for text in flops.split(",")]
    if latency_target and latency_file:
        times = [parse_milliseconds(text) for text in latency_target.split(",")]
        budgets += [budget_of_latency(ms, latency_file, model) for ms in times]
    return budgets


def budget_of_flops(manifest: Manifest, flops: float) -> float:
    """β at which one sample of the example's size takes so many FLOPs.

    Raises:
        UsageError: The model cannot take so few, or so many.
    """
    learners = manifest.all_learners_flops
    budget = (flops - manifest.fixed_flops) / learners if learners else -1.0
    if not 0 <= budget <= 1:
        raise UsageError(
            f"{flops:.4g} FLOPs are out of reach: this model takes {manifest.model_flops(0):.4g} without learners "
            f"and {manifest.model_flops(1):.4g} with all of them"
        )
    return budget


def parse_flops(text: str) -> float:
    """A number of FLOPs such as 17.5G.

    Raises:
        UsageError: It is none.
    """
    text = text.strip()
    try:
        return float(text[:-1]) * _SUFFIXES[text[-1]] if text[-1:] in _SUFFIXES else float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no number of FLOPs", "write it as 17.5G, 900M or 1.75e10") from error


def parse_milliseconds(text: str) -> float:
    """A time such as 4ms.

    Raises:
        UsageError: It is none.
    """
    try:
        milliseconds = float(text.strip().removesuffix("ms"))
    except ValueError:
        milliseconds = 0.0
    if not milliseconds > 0:
        raise UsageError(f"{text!r} is no time", "write it as 4ms")
    return milliseconds


def budget_of_latency(milliseconds: float, latency_file: Path, model: Path) -> float:
    """β at which the model takes so long, by the line fitted to measurements on the target device.

    Args:
        milliseconds: The target.
        latency_file: Result of ``acm-export latency`` (JSON).
        model: The ONNX file that is calibrated, which must be the one that was measured.

    Returns:
        β, at most 1.

    Raises:
        UsageError: The file is broken, of another model or without a fit, or the target is below the fixed cost.
    """
    fixed, per_budget, r2 = _fitted_line(latency_file, model)
    if r2 is not None and r2 < _POOR_FIT:
        warnings.warn(f"time hardly follows the budget in {latency_file}: R² {r2:.2f}", AcmWarning, stacklevel=2)
    if milliseconds <= fixed:
        raise UsageError(
            f"{milliseconds:g} ms are out of reach: {fixed:.4g} ms pass without any learner, {fixed + per_budget:.4g} "
            "with all of them"
        )
    return min((milliseconds - fixed) / per_budget, 1.0)


def _fitted_line(latency_file: Path, model: Path) -> tuple[float, float, float | None]:
    """Fixed milliseconds, milliseconds for all learners, and R²."""
    try:
        content = json.loads(latency_file.read_text(encoding="utf-8"))
        schema = content["schema"]
        if WHOLE.holds(schema) and schema > _LATENCY_SCHEMA:
            raise UsageError(
                f"{latency_file} has schema {schema}, this version reads up to {_LATENCY_SCHEMA}", "update acm-export"
            )
        measured = checked(content.get("source") or content["model"], _MODEL, "model.")[
            "sha256"
        ]  # source: of an engine
        line = None if content["fit"] is None else checked(content["fit"], _FIT, "fit.")
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {latency_file}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BrokenFieldError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{latency_file} is no result of acm-export latency: {reason}", "write one with: acm-export latency --json"
        ) from error
    if measured != (own := sha256_of(model)):
        raise UsageError(
            f"{latency_file} was measured on another model: sha256 {(measured or 'unknown')[:12]}..., {model} has "
            f"{own[:12]}...",
            "measure the file that is to be calibrated",
        )
    if line is None or line["fixed_ms"] is None or not (line["ms_per_budget"] or 0) > 0:
        raise UsageError(f"{latency_file} has no line of time against budget", "measure at three budgets or more")
    return float(line["fixed_ms"]), float(line["ms_per_budget"]), line["r2"]
