"""Summarise an exported file, and check its graph and thresholds against its manifest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from acm_export.base.errors import ModelFileError, UsageError
from acm_export.base.files import check_apart, check_onnx_suffix
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.adoption import adopt as adopt_manifest
from acm_export.onnx_file.body_check import body_contradiction
from acm_export.onnx_file.int8_check import int8_contradiction
from acm_export.onnx_file.manifest import (
    AVOID_INLINING,
    LayerEntry,
    Manifest,
    changed_by_a_tool,
    read_manifest,
    write_manifest,
)
from acm_export.onnx_file.model_file import data_files, external_range, read_model, tensor_values, write_model
from acm_export.onnx_file.original import read_original
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes, node_type, signature_attributes
from acm_export.onnx_file.thresholds import setting_thresholds

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from acm_export.base.files import StrPath
    from acm_export.base.json_fields import JsonObject


@dataclass(frozen=True)
class FileSummary:
    """Summary of an exported file.

    Args:
        manifest: Manifest of the file.
        inputs: Shape of each input, with names for dynamic dimensions.
        outputs: Shape of each output, with names for dynamic dimensions.
        thresholds: Thresholds stored in the file, by layer.
        data_files: External data files, relative to the file's folder.
        num_nodes: Number of nodes in the main graph.
        runs_on: Runtimes that run the file.
        weight_bytes: Size of the initializers, inside and outside the file, by element type.
    """

    manifest: Manifest
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    thresholds: dict[str, list[float]]
    data_files: list[str]
    num_nodes: int
    runs_on: str
    weight_bytes: dict[str, int]

    def to_json(self) -> JsonObject:
        """The object that ``inspect --json`` prints; infinite thresholds become strings."""
        content = asdict(self)
        content["manifest"] = self.manifest.to_json()
        content["thresholds"] = {k: [finite_or_text(v) for v in values] for k, values in self.thresholds.items()}
        return content


def finite_or_text(value: float) -> float | str:
    """JSON value of a number that may be infinite."""
    return value if abs(value) < float("inf") else str(value)


def inspect(model: StrPath, *, adopt: StrPath | None = None, output: StrPath | None = None) -> FileSummary:
    """Read and check an exported file; external weights are not read.

    Args:
        model: Path of an exported file, for any target.
        adopt: The ONNX file as it was before another tool changed it, or a file with the output of ``inspect --json``
            for it: ``model`` gets this manifest back if it fits.
        output: Path of the file to write with that manifest; it may be ``model`` itself, but not ``adopt``.

    Returns:
        Summary of the file, or of ``output``.

    Raises:
        UsageError: There is no such file, or only one of ``adopt`` and ``output`` is given, or
            ``output`` would replace ``adopt``.
        OutputError: ``output`` cannot be written; an existing file is unchanged.
        ModelFileError: The file is broken or was not written by acm-export, or its graph or thresholds contradict its
            manifest.
    """
    if (adopt is None) != (output is None):
        given, other = ("-o", "--adopt") if adopt is None else ("--adopt", "-o")
        raise UsageError(f"{given} needs {other}", "acm-export inspect M.onnx --adopt ORIGINAL.onnx -o FIXED.onnx")
    if output is not None:
        check_onnx_suffix(Path(output))
    path = Path(model)
    proto = read_model(path)
    if adopt is None or output is None:
        manifest = read_manifest(proto, path)
    else:
        original = read_original(Path(adopt))
        check_apart(original.files, {"-o": Path(output)})
        manifest = adopt_manifest(proto, path, original)
    check_graph(proto, manifest, path)
    check_thresholds(proto, manifest, path)
    if output is not None:
        write_manifest(proto, manifest)
        write_model(proto, Path(output), data_from=path.parent)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    return FileSummary(
        manifest,
        {v.name: _shape(v) for v in proto.graph.input if v.name not in tensors or v.name == budget_input.INPUT},
        {value.name: _shape(value) for value in proto.graph.output},
        {name: values.tolist() for name, values in stored_thresholds(proto, manifest, path.parent).items()},
        data_files(proto),
        len(proto.graph.node),
        TARGETS[manifest.target].partition(": ")[2],
        _weight_bytes(proto),
    )


def check_has_layers(manifest: Manifest, path: Path) -> None:
    """Refuse a file of a dense model, which has no budget.

    Args:
        manifest: Manifest of the file.
        path: Path of the file, for errors.

    Raises:
        ModelFileError: The file has no ACM layers.
    """
    if not manifest.layers:
        raise ModelFileError(
            f"{path} has 0 ACM layers, so it has no budget",
            "make the checkpoint adaptive first: acm-export acmize MODEL --data ... -o DIR, then export DIR",
        )


def check_graph(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Check the graph against the manifest.

    Args:
        model: Model of the file.
        manifest: Manifest of the file.
        path: Path of the file, for errors.

    Raises:
        ModelFileError: A layer has no node, a node with other attributes or int8 weights, no body, or no thresholds.
    """
    if manifest.target not in TARGETS:
        raise ModelFileError(
            f"{path} is for the target {manifest.target!r}; this version supports {', '.join(TARGETS)}",
            "update acm-export",
        )
    nodes = [node.name for node in gated_learners_nodes(model)]
    names = [layer.name for layer in manifest.layers]
    if sorted(nodes) != sorted(names):
        raise ModelFileError(
            f"the {len(nodes)} ACM nodes of {path} do not match the {len(names)} layers of its manifest",
            changed_by_a_tool(path) if nodes else AVOID_INLINING,
        )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {layer.name: layer for layer in manifest.layers}
    for node in gated_learners_nodes(model):
        layer = layers[node.name]
        if reason := _node_contradiction(node, layer, manifest.target):
            raise ModelFileError(f"{path}: node {node.name} contradicts the manifest, which says {reason}")
        if not manifest.budget_input:
            _check_threshold_tensor(tensors.get(layer.thresholds), layer, path)
    if manifest.budget_input and (reason := budget_input.contradiction(model, manifest, path.parent)):
        raise ModelFileError(f"{path}: {reason}", "another tool changed the file; calibrate it again")
    if reason := body_contradiction(model, manifest):
        raise ModelFileError(f"{path}: {reason}", "another tool changed the file; export it again")
    if reason := int8_contradiction(model, manifest):
        raise ModelFileError(f"{path}: {reason}", "another tool changed the file; quantize the float file again")


def _check_threshold_tensor(tensor: TensorProto | None, layer: LayerEntry, path: Path) -> None:
    if tensor is None or list(tensor.dims) != [layer.num_learners] or tensor.data_type != TensorProto.FLOAT:
        raise ModelFileError(
            f"{path}: the initializer {layer.thresholds} (float32 [{layer.num_learners}]) is missing",
            changed_by_a_tool(path),
        )
    if (held := _data_bytes(tensor, path)) != 4 * layer.num_learners:
        raise ModelFileError(
            f"{path}: {layer.thresholds} has {held} bytes; float32 [{layer.num_learners}] needs "
            f"{4 * layer.num_learners}",
            "another tool changed the file; export it again",
        )


def _node_contradiction(node: onnx.NodeProto, layer: LayerEntry, target: str) -> str | None:
    """What the manifest says where the node of a layer differs, or None."""
    operator = node_type(layer.signature, target)
    inputs, expected = layer.signature.inputs, layer.signature.attributes
    if node.op_type != operator or node.overload or len(node.input) != len(inputs):
        return f"{operator} with {len(inputs)} inputs"
    found = signature_attributes(node)
    return None if {key: found.get(key) for key in expected} == expected else str(expected)


def stored_thresholds(model: onnx.ModelProto, manifest: Manifest, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Thresholds float32 ``[N]`` stored in the file, by layer; with a budget input, for its default budget."""
    if manifest.budget_input:
        return setting_thresholds(manifest)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {e.name: tensor_values(tensors[e.thresholds], folder) for e in manifest.layers}


def check_thresholds(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Check the thresholds against the setting that the manifest records.

    Args:
        model: Model of the file.
        manifest: Manifest of the file.
        path: Path of the file, for errors.

    Raises:
        ModelFileError: The thresholds do not match the setting: another tool changed them.
    """
    if manifest.setting.threshold is None and manifest.setting.budget is None:
        return
    stored, expected = stored_thresholds(model, manifest, path.parent), setting_thresholds(manifest)
    for layer in manifest.layers:
        if not np.array_equal(stored[layer.name], expected[layer.name]):
            raise ModelFileError(
                f"{path}: {layer.thresholds} is {stored[layer.name].tolist()}, "
                f"but the manifest says {expected[layer.name].tolist()}",
                "set them with: acm-export set-budget",
            )


def _weight_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of the initializers by element type, the largest first."""
    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        sizes[dtype.name] = sizes.get(dtype.name, 0) + math.prod(tensor.dims) * dtype.itemsize
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _data_bytes(tensor: TensorProto, path: Path) -> int:
    """Size of a float32 tensor's data, inside or outside the file."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return external_range(tensor, path.parent)[2]
    return len(tensor.raw_data) or 4 * len(tensor.float_data)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
