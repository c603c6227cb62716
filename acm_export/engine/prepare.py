"""Rewrite an ONNX file of any target in memory for the installed TensorRT; the file itself is not changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, write_model
from acm_export.onnx_file.retarget import counts_as_outputs
from acm_export.onnx_file.targets import retarget
from acm_export.runtimes.runnable import thresholds_as_inputs

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

FIRST_STRONGLY_TYPED = (10, 3)
"""The oldest TensorRT 10 that the plugin is compiled for."""

OLDEST = (8, 5)


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
    """

    model: onnx.ModelProto
    manifest: Manifest
    source: Path
    extra: ExtraIO
    changed: bool

    @property
    def inputs(self) -> dict[str, list[int | str]]:
        """Input shapes of the graph, with names for dynamic dimensions."""
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in self.model.graph.input
        }


def target_for(version: tuple[int, int]) -> str:
    """The export target that a TensorRT version parses.

    Args:
        version: Major and minor version of TensorRT.

    Raises:
        EngineError: The plugin does not support this version.
    """
    if version < OLDEST or (9, 0) <= version < FIRST_STRONGLY_TYPED:
        raise EngineError(
            f"TensorRT {version[0]}.{version[1]} is not supported; the plugin needs 8.5, 8.6, or 10.3 and later",
            "install a supported TensorRT, for example: pip install 'tensorrt>=10.3'",
        )
    return "tensorrt-8" if version < (9, 0) else "tensorrt"


def prepare(path: Path, target: str, extra: ExtraIO = ExtraIO()) -> TensorRTModel:
    """Read a file and rewrite it for TensorRT: no function bodies, plugin attributes, the budget a required input.

    Args:
        path: A file written by acm-export, for any target.
        target: ``tensorrt`` or ``tensorrt-8``.
        extra: Inputs and outputs to add.

    Raises:
        ModelFileError: The file was not written by acm-export, or was changed by another tool.
        ExportError: The target cannot express the model.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    before = _names(model)
    rewritten = retarget(model, manifest, target, folder=path.parent)
    if extra.thresholds:
        rewritten = _take_thresholds(model, rewritten, path)
    if extra.counts:
        counts_as_outputs(model)
    write_manifest(model, rewritten)
    changed = manifest.target != target or _names(model) != before
    return TensorRTModel(model, rewritten, path, extra, changed)


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
    ours = {layer.thresholds for layer in manifest.layers}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in ours]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return manifest
