"""Turn the dials of an exported file: rewrites thresholds, reads no weights that lie outside the file."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, ModelFileError, UsageError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph
from acm_export.onnx_file.manifest import Manifest, Setting, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, write_model
from acm_export.onnx_file.thresholds import check_setting, write_thresholds

if TYPE_CHECKING:
    from pathlib import Path


def set_budget(
    path: Path,
    *,
    budget: float | None = None,
    threshold: float | None = None,
    max_learners: int | None = None,
    trained: bool = False,
    output: Path | None = None,
) -> Manifest:
    """Change how much of its learners a file runs.

    What is not given keeps its value; ``trained`` starts from τ = 0 without a bound.

    Args:
        path: An exported file of any target.
        budget: β, from the table that calibration writes; outside its range the nearest end, with a warning. In a
            portable file with a budget input it becomes the default.
        threshold: τ for every gated learner of every layer; larger is cheaper.
        max_learners: No token runs more learners than this.
        trained: Go back to what was trained.
        output: Where to write; by default the file itself is replaced, whole or not at all.

    Returns:
        The new manifest.

    Raises:
        UsageError: Nothing was asked for, or what the file or its layers cannot follow.
        ModelFileError: The file is not one of ours, or is not calibrated and a budget was asked for.
    """
    if budget is None and threshold is None and max_learners is None and not trained:
        raise UsageError("nothing to set", "give a budget, --threshold, --max-learners or --trained")
    if (budget is not None) + (threshold is not None) + trained > 1:
        raise UsageError("a budget, --threshold and --trained exclude each other", "give one of them")
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    setting = _new_setting(manifest, path, budget, threshold, max_learners, trained=trained)
    check_setting(setting, manifest.layers)
    manifest = manifest.replaced(setting=setting)
    if manifest.budget_input:
        budget_input.set_bound(model, manifest)
        budget_input.fit_target(model, manifest)
    else:
        write_thresholds(model, manifest)
    write_manifest(model, manifest)
    write_model(model, output or path, data_from=path.parent)
    return manifest


def _new_setting(
    manifest: Manifest,
    path: Path,
    budget: float | None,
    threshold: float | None,
    max_learners: int | None,
    *,
    trained: bool,
) -> Setting:
    before = manifest.setting
    bound = max_learners if max_learners is not None or trained else before.max_learners
    if manifest.budget_input and threshold is not None:
        raise UsageError(
            f"{path} computes its thresholds from its input budget, so no threshold can be set in it",
            "set a budget, or calibrate without --budget-input",
        )
    if manifest.budget_input and trained and manifest.calibration is not None:
        budget = manifest.calibration.trained_budget
        warnings.warn(
            f"{path.name} computes its thresholds from a budget: {budget:.4g}, which τ = 0 has, comes near what was "
            "trained, not to the bit",
            AcmWarning,
            stacklevel=3,
        )
    if budget is not None:
        return Setting(None, bound, _from_table(manifest, path, budget))
    if threshold is not None:
        return Setting(threshold, bound)
    return Setting(0.0, bound) if trained else Setting(before.threshold, bound, before.budget)


def _from_table(manifest: Manifest, path: Path, budget: float) -> float:
    if not math.isfinite(budget):
        raise UsageError(f"the budget is {budget:g}", "give a share of learner FLOPs, from 0 to 1")
    if manifest.calibration is None:
        raise ModelFileError(
            f"{path} is not calibrated: it has no table from budgets to thresholds",
            "calibrate it with: acm-export calibrate, or set a threshold with --threshold, or bound the learners "
            "with --max-learners",
        )
    if manifest.budget_input and manifest.target != "portable":
        raise UsageError(
            f"{path} takes its budget with each call, and for the target {manifest.target} has no default",
            "give the input budget when running it",
        )
    table = manifest.calibration.table
    clamped = table.clamped(budget)
    if clamped != budget:
        reach = f"the table of {path.name} reaches from {table.smallest:.4g} to {table.largest:.4g}"
        warnings.warn(f"{reach}; {budget:g} becomes {clamped:.4g}", AcmWarning, stacklevel=3)
    return clamped
