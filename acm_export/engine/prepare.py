"""A file for any target, as the TensorRT at hand needs it; in memory, the file stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model, write_model
from acm_export.onnx_file.targets import retarget
from acm_export.runtimes.runnable import counts_as_outputs, thresholds_as_inputs

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

FIRST_STRONGLY_TYPED = (10, 3)
"""The oldest TensorRT 10 that the plugin is compiled for."""

OLDEST = (8, 5)


@dataclass(frozen=True)
class Ends:
    """What an engine takes and gives beside the inputs and outputs of the file.

    Args:
        counts: Learner counts of each layer as the outputs ``counts/<layer>``, by which budgets are measured.
        thresholds: Thresholds of each layer as the inputs ``<layer>.thresholds``, in place of a budget or constants.
    """

    counts: bool = True
    thresholds: bool = False


@dataclass(frozen=True)
class Prepared:
    """A model for TensorRT's parser.

    Args:
        model: With references to external data in the folder of ``source``.
        manifest: With the new target.
        source: The file that it was read from.
        was: The target that the file has.
        ends: What was added.
        changed: Whether trtexec needs another file than ``source`` to build the same.
    """

    model: onnx.ModelProto
    manifest: Manifest
    source: Path
    was: str
    ends: Ends
    changed: bool

    @property
    def inputs(self) -> dict[str, list[int | str]]:
        """Shapes of the graph's inputs, with names for dynamic dimensions."""
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in self.model.graph.input
        }


def target_for(version: tuple[int, int]) -> str:
    """Target that a TensorRT parses.

    Args:
        version: Major and minor.

    Raises:
        EngineError: The plugin is not made for it.
    """
    if version < OLDEST or (9, 0) <= version < FIRST_STRONGLY_TYPED:
        raise EngineError(
            f"TensorRT {version[0]}.{version[1]} is not supported; the plugin is made for 8.5, 8.6 and 10.3 or later",
            "install another TensorRT, for example: pip install 'tensorrt>=10.3'",
        )
    return "tensorrt-8" if version < (9, 0) else "tensorrt"


def prepare(path: Path, target: str, ends: Ends = Ends()) -> Prepared:
    """Read a file and rewrite it for TensorRT: no function bodies, plugin attributes, the budget a required input.

    Args:
        path: A file that acm-export wrote, for any target.
        target: ``tensorrt`` or ``tensorrt-8``.
        ends: What the engine takes and gives beside the file's inputs and outputs.

    Raises:
        ModelFileError: The file is not ours, or another tool changed it.
        ExportError: The target cannot express the model.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    before = _names(model)
    rewritten = retarget(model, manifest, target)
    if ends.thresholds:
        rewritten = _take_thresholds(model, rewritten, path)
    if ends.counts:
        counts_as_outputs(model)
    write_manifest(model, rewritten)
    changed = manifest.target != target or _names(model) != before
    return Prepared(model, rewritten, path, manifest.target, ends, changed)


def _names(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in (*model.graph.input, *model.graph.output)]


def save_prepared(prepared: Prepared, path: Path) -> None:
    """Write what the parser gets as a file, for trtexec; weights beside the source are shared.

    Raises:
        OutputError: It cannot be written.
    """
    write_model(prepared.model, path, data_from=prepared.source.absolute().parent)


def _take_thresholds(model: onnx.ModelProto, manifest: Manifest, path: Path) -> Manifest:
    """Make thresholds inputs without default, which TensorRT's parser would turn into constants."""
    if manifest.calibration is not None and manifest.budget_input:
        budget_input.detach(model, stored_thresholds(model, manifest, path.parent))
        manifest = manifest.replaced(calibration=replace(manifest.calibration, budget_input=False))
    thresholds_as_inputs(model, manifest)
    ours = {layer.thresholds for layer in manifest.layers}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in ours]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return manifest
