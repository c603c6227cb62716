"""Write a file for another target, with its calibration, setting and weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from acm_export.base.errors import UsageError
from acm_export.base.files import check_onnx_suffix, staging_folder
from acm_export.onnx_file import targets
from acm_export.onnx_file.inspection import check_graph, check_thresholds
from acm_export.onnx_file.manifest import Manifest, read_manifest, write_manifest
from acm_export.onnx_file.model_file import external_tensors, read_model, write_model
from acm_export.onnx_file.staged_file import finish, stage
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes

if TYPE_CHECKING:
    import onnx

    from acm_export.base.files import StrPath


def retarget(model: StrPath, output: StrPath, *, target: str, with_counts: bool = False) -> Manifest:
    """Rewrite an exported file for another target, with its calibration and setting.

    Args:
        model: Path of an exported file, for any target.
        output: Path of the file to write; it may be ``model`` itself.
        target: ``portable``, ``tensorrt``, ``tensorrt-8`` or ``ort-tensorrt``.
        with_counts: Add the learner counts of each layer as int32 outputs ``counts/<layer>``, as ``build-engine`` does.

    Returns:
        The manifest of the written file. Files for tensorrt-8 have opset 17 and stay at it when they are rewritten for
        another target.

    Raises:
        UsageError: There is no such file, or no such target.
        ModelFileError: The file was not written by acm-export, or was changed by another tool.
        ExportError: The target cannot express the model.
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}", f"choose one of {', '.join(TARGETS)}")
    path, output = Path(model), Path(output)
    check_onnx_suffix(output)
    proto = read_model(path)
    manifest = read_manifest(proto, path)
    check_graph(proto, manifest, path)
    check_thresholds(proto, manifest, path)
    manifest = targets.rewrite_for(proto, manifest, target, folder=path.parent)
    if with_counts:
        counts_as_outputs(proto)
    write_manifest(proto, manifest)
    _write(proto, manifest, path, output)
    return manifest


def counts_as_outputs(model: onnx.ModelProto) -> None:
    """Add the learner counts of each layer as an output ``counts/<layer>``, in place."""
    outputs = {value.name for value in model.graph.output}
    for node in gated_learners_nodes(model):
        if node.output[1] not in outputs:
            model.graph.output.append(helper.make_tensor_value_info(node.output[1], TensorProto.INT32, None))


def _write(model: onnx.ModelProto, manifest: Manifest, path: Path, output: Path) -> None:
    """Write the file; it shares external data, except with int8 layers, whose weights may have been rewritten."""
    int8 = any(layer.activations is not None for layer in manifest.layers)
    if not int8 or next(external_tensors(model), None) is None:
        write_model(model, output, data_from=path.parent)
        return
    with staging_folder(output) as staging:
        stage(model, path.parent, staging / output.name)
        finish(staging / output.name, output)
