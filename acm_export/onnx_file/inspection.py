"""What an exported file holds: manifest and graph, held against each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from acm_export.base.errors import ModelFileError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.manifest import Manifest, read_manifest
from acm_export.onnx_file.model_file import data_files, external_range, read_model
from acm_export.onnx_file.overloads import FIRST, has_overloads
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes
from acm_export.onnx_file.thresholds import setting_thresholds
from acm_export.op.signature import INPUTS

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FileSummary:
    """An exported file.

    Args:
        manifest: What it says about itself.
        inputs: Shapes by name, with names for dynamic dimensions.
        outputs: Likewise.
        thresholds: Of each layer, as they stand in the file.
        data_files: External data, relative to the file's folder.
        num_nodes: Nodes of the main graph.
        runs_on: What runs the file.
    """

    manifest: Manifest
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    thresholds: dict[str, list[float]]
    data_files: list[str]
    num_nodes: int
    runs_on: str

    def to_json(self) -> dict[str, Any]:
        """For ``--json``; infinite thresholds are written as strings."""
        content = asdict(self)
        content["manifest"] = self.manifest.to_json()
        content["thresholds"] = {k: [finite_or_text(v) for v in values] for k, values in self.thresholds.items()}
        return content


def finite_or_text(value: float) -> float | str:
    """A JSON value for a number that may be infinite."""
    return value if abs(value) < float("inf") else str(value)


def summarize(path: Path) -> FileSummary:
    """Read and check an exported file; weights are not read where they lie outside the file.

    Raises:
        ModelFileError: The file is broken, not ours, or its graph or thresholds contradict its manifest.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return FileSummary(
        manifest,
        {v.name: _shape(v) for v in model.graph.input if v.name not in tensors or v.name == budget_input.INPUT},
        {value.name: _shape(value) for value in model.graph.output},
        {name: values.tolist() for name, values in stored_thresholds(model, manifest, path.parent).items()},
        data_files(model),
        len(model.graph.node),
        _runs_on(model, manifest),
    )


def check_graph(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Hold the graph against the manifest.

    Raises:
        ModelFileError: A layer has no node of its own, other attributes, or no thresholds.
    """
    if manifest.target not in TARGETS:
        raise ModelFileError(f"{path} is for the target {manifest.target!r}, which this version does not know")
    nodes = [node.name for node in gated_learners_nodes(model)]
    names = [layer.name for layer in manifest.layers]
    if sorted(nodes) != sorted(names):
        raise ModelFileError(
            f"{path} has {len(nodes)} GatedLearners nodes, its manifest names {len(names)} layers, and they differ",
            "another tool changed the file; export it again",
        )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {layer.name: layer for layer in manifest.layers}
    for node in gated_learners_nodes(model):
        layer = layers[node.name]
        attributes = {a.name: a.s.decode(errors="replace") if a.s else a.i for a in node.attribute}
        expected = vars(layer.signature)
        if {key: attributes.get(key) for key in expected} != expected or len(node.input) != len(INPUTS):
            raise ModelFileError(f"{path}: the node {node.name} contradicts the manifest, which says {expected}")
        if manifest.budget_input:
            continue
        tensor = tensors.get(layer.thresholds)
        if tensor is None or list(tensor.dims) != [layer.num_learners] or tensor.data_type != TensorProto.FLOAT:
            raise ModelFileError(
                f"{path}: the initializer {layer.thresholds} (float32 [{layer.num_learners}]) is missing"
            )
        if (held := _held_bytes(tensor, path)) != 4 * layer.num_learners:
            raise ModelFileError(
                f"{path}: {layer.thresholds} holds {held} bytes, float32 [{layer.num_learners}] takes "
                f"{4 * layer.num_learners}",
                "another tool changed the file; export it again",
            )
    if manifest.budget_input and (reason := budget_input.contradiction(model, manifest, path.parent)):
        raise ModelFileError(f"{path}: {reason}", "another tool changed the file; calibrate it again")


def stored_thresholds(model: onnx.ModelProto, manifest: Manifest, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Thresholds float32 ``[N]`` of each layer as they stand in the file; with a budget input, at its default."""
    if manifest.budget_input:
        return setting_thresholds(manifest)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {e.name: numpy_helper.to_array(tensors[e.thresholds], str(folder)) for e in manifest.layers}


def check_thresholds(model: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Hold the thresholds against the setting that the manifest records.

    Raises:
        ModelFileError: Another tool changed them.
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


def _runs_on(model: onnx.ModelProto, manifest: Manifest) -> str:
    runtime = TARGETS[manifest.target].partition(": ")[2]
    if not has_overloads(model):
        return runtime
    first = ".".join(map(str, FIRST))
    return f"{runtime}, {first} or later (older ones run layers that differ in N, min or activation with one body)"


def _held_bytes(tensor: TensorProto, path: Path) -> int:
    """Bytes of a float32 tensor's data, wherever they lie."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return external_range(tensor, path.parent)[2]
    return len(tensor.raw_data) or 4 * len(tensor.float_data)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
