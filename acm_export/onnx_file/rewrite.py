"""Write a calibrated file: the same graph, a new manifest, and a budget input if requested."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, write_model
from acm_export.onnx_file.thresholds import write_thresholds

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


def write_calibrated(path: Path, manifest: Manifest, output: Path) -> None:
    """Write a calibrated file; external weights are not read.

    Args:
        path: Path of the file that was calibrated.
        manifest: Manifest with the calibration; its setting determines the thresholds of the new file.
        output: Path of the file to write.

    Raises:
        OutputError: The file cannot be written.
    """
    model = read_model(path)
    before = read_manifest(model, path)
    if before.calibration is not None:
        _log.info(
            "replacing the previous budget table: %d knots (%s) from %d samples",
            len(before.calibration.table.budgets),
            before.calibration.solver,
            before.calibration.samples,
        )
    if before.budget_input:
        budget_input.detach(model, stored_thresholds(model, before, path.parent))
    if manifest.budget_input:
        budget_input.attach(model, manifest)
    else:
        for layer in manifest.layers:  # to the end, where detach() puts them too
            tensor = next(t for t in model.graph.initializer if t.name == layer.thresholds)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(tensor)
        write_thresholds(model, manifest)
    write_manifest(model, manifest)
    write_model(model, output, data_from=path.parent)
