"""Turn the dials of an exported file: rewrites thresholds, reads no weights that lie outside the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import numpy_helper

from acm_export.calibration.thresholds import check_setting, thresholds_for
from acm_export.errors import ModelFileError, UsageError
from acm_export.inspection import check_graph
from acm_export.manifest import Manifest, Setting, read_manifest, write_manifest
from acm_export.model_file import read_model, write_model

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
        budget: β, from the table that calibration writes.
        threshold: τ for every gated learner of every layer; larger is cheaper.
        max_learners: No token runs more learners than this.
        trained: Go back to what was trained.
        output: Where to write; by default the file itself is replaced, whole or not at all.

    Returns:
        The new manifest.

    Raises:
        UsageError: Nothing was asked for, or the file's layers cannot follow.
        ModelFileError: The file is not one of ours, or is not calibrated and a budget was asked for.
    """
    if budget is None and threshold is None and max_learners is None and not trained:
        raise UsageError("nothing to set", "give --threshold, --max-learners or --trained")
    model = read_model(path)
    manifest = read_manifest(model, path)
    if budget is not None:
        raise ModelFileError(
            f"{path} is not calibrated: it has no table from budgets to thresholds",
            "set a threshold with --threshold, or bound the learners with --max-learners",
        )
    check_graph(model, manifest, path)
    before = Setting() if trained else manifest.setting
    setting = Setting(
        before.threshold if threshold is None else threshold,
        before.max_learners if max_learners is None else max_learners,
    )
    check_setting(setting, manifest.layers)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in manifest.layers:
        tensors[layer.thresholds].CopyFrom(numpy_helper.from_array(thresholds_for(layer, setting), layer.thresholds))
    manifest = manifest.replaced(setting=setting)
    write_manifest(model, manifest)
    write_model(model, output or path, data_from=path.parent)
    return manifest
