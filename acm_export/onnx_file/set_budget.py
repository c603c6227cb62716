"""Change the budget of a file by rewriting its thresholds, without reading external weights."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, ModelFileError, UsageError
from acm_export.base.files import check_onnx_suffix
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph, check_has_layers
from acm_export.onnx_file.manifest import Manifest, Setting, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, write_model
from acm_export.onnx_file.thresholds import check_setting, write_thresholds

if TYPE_CHECKING:
    from acm_export.base.files import StrPath


def set_budget(
    model: StrPath,
    budget: float | None = None,
    *,
    output: StrPath | None = None,
    threshold: float | None = None,
    max_learners: int | None = None,
    trained: bool = False,
) -> Manifest:
    """Change how many learners a file runs.

    Omitted options keep their value; ``trained`` resets to τ = 0 without a bound.

    Args:
        model: Path of an exported file, for any target.
        budget: β, looked up in the budget table of a calibrated file. A value outside the table's range is clamped,
            with a warning. In a portable file with a budget input it becomes the default of that input.
        output: Path of the file to write; by default ``model`` is replaced.
        threshold: τ of every gated learner of every layer; larger is cheaper.
        max_learners: Upper bound on the learners of a token.
        trained: Return to the trained thresholds.

    Returns:
        The manifest of the written file.

    Raises:
        UsageError: There is no such file, no option is given, or options contradict each other or the layers.
        ModelFileError: The file was not written by acm-export, has no ACM layers, or is not calibrated and a budget is
            given.
        OutputError: The file cannot be written, for example because it is read-only.
    """
    if budget is None and threshold is None and max_learners is None and not trained:
        raise UsageError("nothing to set", "give a budget, --threshold, --max-learners or --trained")
    if (budget is not None) + (threshold is not None) + trained > 1:
        raise UsageError("a budget, --threshold and --trained are mutually exclusive", "give one of them")
    path = Path(model)
    if output is not None:
        check_onnx_suffix(Path(output))
    proto = read_model(path)
    manifest = read_manifest(proto, path)
    check_graph(proto, manifest, path)
    check_has_layers(manifest, path)
    setting = _new_setting(manifest, path, budget, threshold, max_learners, trained=trained)
    check_setting(setting, manifest.layers)
    manifest = manifest.replaced(setting=setting)
    if manifest.budget_input:
        budget_input.set_bound(proto, manifest)
        budget_input.fit_target(proto, manifest)
    else:
        write_thresholds(proto, manifest)
    write_manifest(proto, manifest)
    write_model(proto, Path(output or path), data_from=path.parent)
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
            f"{path} computes its thresholds from its budget input, so --threshold does not apply",
            "set a budget, or calibrate without --budget-input",
        )
    if manifest.budget_input and trained and manifest.calibration is not None:
        budget = manifest.calibration.trained_budget
        warnings.warn(
            f"{path.name} computes its thresholds from a budget: its default becomes {budget:.4g}, the budget measured "
            "at τ = 0, whose thresholds are close to the trained ones but not identical",
            AcmWarning,
            stacklevel=3,
        )
    if budget is not None:
        return Setting(None, bound, _clamped(manifest, path, budget))
    if threshold is not None:
        return Setting(threshold, bound)
    return Setting(0.0, bound) if trained else Setting(before.threshold, bound, before.budget)


def _clamped(manifest: Manifest, path: Path, budget: float) -> float:
    """The nearest budget in the range of the file's table."""
    if not math.isfinite(budget):
        raise UsageError(f"the budget is {budget:g}", "give a share of the learner FLOPs, from 0 to 1")
    if manifest.calibration is None:
        raise ModelFileError(
            f"{path} is not calibrated: it has no table from budgets to thresholds",
            f"acm-export calibrate {path} --data ... --budgets {budget:g} -o calibrated.onnx, "
            "or use --threshold or --max-learners",
        )
    if manifest.budget_input and manifest.target != "portable":
        raise UsageError(
            f"{path} takes its budget with each call and has no default for the target {manifest.target}",
            "feed the input budget with each run",
        )
    table = manifest.calibration.table
    clamped = table.clamped(budget)
    if clamped != budget:
        warnings.warn(
            f"the table of {path.name} covers {table.smallest:.4g} to {table.largest:.4g}; "
            f"using {clamped:.4g} instead of {budget:g}",
            AcmWarning,
            stacklevel=4,
        )
    return clamped
