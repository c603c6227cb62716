"""Rewrite an ONNX file of any target in memory for the installed TensorRT; the file itself is not changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from acm_export.engine import portable_body
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, remove_initializers, write_model
from acm_export.onnx_file.retarget import counts_as_outputs
from acm_export.onnx_file.targets import rewrite_for
from acm_export.runtimes.runnable import thresholds_as_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

    from acm_export.engine.profiles import Shape
    from acm_export.engine.release import Release


@dataclass(frozen=True)
class ExtraIO:
    """Inputs and outputs that an engine has in addition to those of the file.

    Args:
        counts: Output the learner counts of each layer as ``counts/<layer>``; ``latency`` measures budgets by them.
        thresholds: Take the thresholds of each layer as the input ``<layer>.thresholds``, instead of a budget or
            constants.
    """

    counts: bool = True
    thresholds: bool = False


@dataclass(frozen=True)
class TensorRTModel:
    """A model for TensorRT's parser.

    Args:
        model: The graph, with references to external data in the folder of ``source``.
        manifest: Manifest with the target of the installed TensorRT.
        source: ONNX file that the model was read from.
        extra: Inputs and outputs that were added.
        changed: Whether trtexec needs another file than ``source`` to build the same engine.
        fixed: Shapes of inputs that look dynamic in the graph but have one shape.
    """

    model: onnx.ModelProto
    manifest: Manifest
    source: Path
    extra: ExtraIO
    changed: bool
    fixed: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, list[int | str]]:
        """Input shapes of the graph, with names for dynamic dimensions."""
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in self.model.graph.input
        }


def prepare(path: Path, release: Release, extra: ExtraIO = ExtraIO()) -> TensorRTModel:
    """Read a file and rewrite it for TensorRT: the target of the release, and the budget as a required input.

    Args:
        path: A file written by acm-export, for any target.
        release: TensorRT that parses it.
        extra: Inputs and outputs to add.

    Raises:
        ModelFileError: The file was not written by acm-export, or was changed by another tool.
        ExportError: The target cannot express the model.
        EngineError: The plugin does not support this release.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    before = _names(model)
    if release.is_rtx:
        portable_body.check_no_int8_layers(manifest)
    rewritten = rewrite_for(model, manifest, release.target, folder=path.parent)
    if rewritten.budget_input:
        budget_input.remove_default(model)
    if extra.thresholds:
        rewritten = _take_thresholds(model, rewritten, path)
    if extra.counts:
        counts_as_outputs(model)
    fixed = portable_body.fit_parser(model, rewritten) if release.is_rtx else {}
    write_manifest(model, rewritten)
    changed = manifest.target != release.target or _names(model) != before
    return TensorRTModel(model, rewritten, path, extra, changed, fixed)


def _names(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in (*model.graph.input, *model.graph.output)]


def save_for_trtexec(prepared: TensorRTModel, path: Path) -> None:
    """Write the model that the parser gets as a file; external data of the source is shared.

    Raises:
        OutputError: The file cannot be written.
    """
    write_model(prepared.model, path, data_from=prepared.source.absolute().parent)


def _take_thresholds(model: onnx.ModelProto, manifest: Manifest, path: Path) -> Manifest:
    """Make thresholds inputs without a default: TensorRT's parser turns inputs with a default into constants."""
    if manifest.calibration is not None and manifest.budget_input:
        budget_input.detach(model, stored_thresholds(model, manifest, path.parent))
        manifest = manifest.replaced(calibration=replace(manifest.calibration, budget_input=False))
    thresholds_as_inputs(model, manifest)
    remove_initializers(model, {layer.thresholds for layer in manifest.layers})
    return manifest
