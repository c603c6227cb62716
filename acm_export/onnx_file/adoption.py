"""Give a file back the manifest that another tool removed, and what such tools do to ACM layers.

Tools that rewrite graphs drop the metadata, merge thresholds that are equal, or fold the budget input into constants.
Weights, layers and operators stay; whatever does not is an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

from acm_export.base.errors import ModelFileError
from acm_export.base.file_kinds import ONNX, file_kind, not_a
from acm_export.base.files import check_input
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.manifest import AVOID_INLINING, Manifest, parse_manifest, read_manifest
from acm_export.onnx_file.model_file import read_model, tensor_values
from acm_export.onnx_file.targets import gated_learners_nodes, rewrite_for
from acm_export.onnx_file.thresholds import setting_thresholds
from acm_export.op.precision import PRECISIONS
from acm_export.op.quantized_signature import QUANTIZED_INPUTS
from acm_export.op.signature import INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from acm_export.onnx_file.manifest import LayerEntry

_THRESHOLDS = INPUTS.index("thresholds")
_FIRST_WEIGHT = _THRESHOLDS + 1
_WHAT = "a manifest of acm-export"
_MAX_BYTES = 64 << 20
_GIVE = "give the ONNX file before the other tool changed it, or what acm-export inspect --json printed for it"


def adopt(model: onnx.ModelProto, path: Path, source: Path) -> Manifest:
    """Fit a model to a manifest, in place: the names, thresholds, budget input and function bodies that it lost.

    Args:
        model: Model that another tool wrote from a file of acm-export.
        path: Path of the model, for errors, and the folder of its external data.
        source: The ONNX file before the other tool changed it, or the JSON object that ``inspect --json`` printed for
            it. With the ONNX file, the weights of the ACM layers are compared too.

    Returns:
        The manifest, with the opset of the model.

    Raises:
        UsageError: There is no file ``source``.
        ModelFileError: ``source`` holds no manifest, or the model does not fit it.
    """
    manifest, original = _read(source)
    nodes = _match(model, manifest, path, source)
    for layer in manifest.layers:
        _check_attributes(nodes[layer.name], layer, path, source)
    _restore_thresholds(model, manifest, nodes, path)
    missing = manifest.example_inputs.keys() - {value.name for value in model.graph.input}
    if missing:
        found = ", ".join(value.name for value in model.graph.input)
        raise _misfit(path, source, f"the manifest has the input {min(missing)}, the file has {found}")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), manifest.opset)
    manifest = rewrite_for(model, manifest.replaced(opset=opset), manifest.target, folder=path.parent)
    for layer in manifest.layers:
        if reason := next(_weight_misfits(model, nodes[layer.name], layer, manifest), None):
            raise _misfit(path, source, reason)
    if original is not None:
        _compare_weights(model, nodes, original, path, source)
    return manifest


def _read(source: Path) -> tuple[Manifest, onnx.ModelProto | None]:
    """The manifest of a file, and the file if it is ONNX."""
    check_input(source)
    if file_kind(source) == ONNX:
        original = read_model(source)
        return read_manifest(original, source), original
    if source.stat().st_size > _MAX_BYTES:
        raise ModelFileError(not_a(source, _WHAT, f"it has more than {_MAX_BYTES >> 20} MiB"), _GIVE)
    try:
        content = json.loads(source.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(not_a(source, _WHAT, "it is not JSON"), _GIVE) from error
    if isinstance(content, dict) and "manifest" in content:
        content = content["manifest"]
    if not isinstance(content, dict) or "layers" not in content:
        raise ModelFileError(not_a(source, _WHAT, "it has no list of layers"), _GIVE)
    return parse_manifest(content, source), None


def _match(model: onnx.ModelProto, manifest: Manifest, path: Path, source: Path) -> dict[str, onnx.NodeProto]:
    """The node of each layer, by its name or its thresholds; nodes get the names of their layers."""
    nodes = list(gated_learners_nodes(model))
    if manifest.layers and not nodes:
        raise ModelFileError(
            f"{path} has no ACM nodes; a tool that inlines functions removes them for good", AVOID_INLINING
        )
    names = {node.name: node for node in nodes}
    thresholds = {node.input[_THRESHOLDS]: node for node in nodes if len(node.input) > _THRESHOLDS}
    found: dict[str, onnx.NodeProto] = {}
    for layer in manifest.layers:
        node = names.get(layer.name) or thresholds.get(layer.thresholds)
        if node is None:
            raise _misfit(path, source, f"no ACM node has the name {layer.name} or reads {layer.thresholds}")
        found[layer.name] = node
    if len({id(node) for node in found.values()}) != len(nodes):
        raise _misfit(path, source, f"the file has {len(nodes)} ACM nodes, the manifest {len(manifest.layers)} layers")
    for name, node in found.items():
        node.name = name
    return found


def _check_attributes(node: onnx.NodeProto, layer: LayerEntry, path: Path, source: Path) -> None:
    attributes = {a.name: a.s.decode(errors="replace") if a.s else a.i for a in node.attribute}
    for name, expected in vars(layer.signature).items():
        if (found := attributes.get(name, 0)) != expected:
            reason = f"{name} of layer {layer.name} is {found}; the manifest says {expected}"
            raise _misfit(path, source, reason)
    inputs = _inputs(layer)
    if len(node.input) != len(inputs):
        raise _misfit(
            path, source, f"layer {layer.name} has {len(node.input)} inputs; the manifest needs {len(inputs)}"
        )


def _restore_thresholds(
    model: onnx.ModelProto, manifest: Manifest, nodes: dict[str, onnx.NodeProto], path: Path
) -> None:
    """Give each layer its own initializer again; with a budget input, the nodes that compute it."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = {}
    for layer in manifest.layers:
        tensor = known.get(nodes[layer.name].input[_THRESHOLDS])
        if tensor is not None:
            stored[layer.name] = tensor_values(tensor, path.parent)
        elif not manifest.budget_input:
            raise ModelFileError(f"{path}: the thresholds of layer {layer.name} are not an initializer", AVOID_INLINING)
    if manifest.budget_input:
        expected = setting_thresholds(manifest)
        for name, values in stored.items():
            same = values.shape == expected[name].shape and np.allclose(values, expected[name], rtol=1e-5, atol=1e-6)
            if not same:
                raise ModelFileError(
                    f"{path}: the other tool folded the budget input, and the thresholds of layer {name} are "
                    f"{values.tolist()}; the default budget of the manifest gives {expected[name].tolist()}"
                )
        stored = expected
    names = {layer.thresholds for layer in manifest.layers}
    others = (node for node in model.graph.node if not budget_input.is_ours(node.name))
    if computed := names & {name for node in others for name in node.output}:
        raise ModelFileError(
            f"{path}: {min(computed)} is computed by nodes that are not those of the budget input", AVOID_INLINING
        )
    _unshare(model, names)
    for layer in manifest.layers:
        nodes[layer.name].input[_THRESHOLDS] = layer.thresholds
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if manifest.budget_input:
        budget_input.detach(model, stored)
        budget_input.attach(model, manifest)
    else:
        model.graph.initializer.extend(numpy_helper.from_array(v, f"{name}.thresholds") for name, v in stored.items())


def _unshare(model: onnx.ModelProto, thresholds: set[str]) -> None:
    """Copy constants that will be replaced for the nodes that a tool made read them because the values are equal."""
    acm = {id(node) for node in gated_learners_nodes(model)}
    copies: dict[str, str] = {}
    for node in model.graph.node:
        if id(node) in acm or budget_input.is_ours(node.name):
            continue
        for index, name in enumerate(node.input):
            if name in thresholds or budget_input.is_ours(name):
                node.input[index] = copies.setdefault(name, f"adopted/{name}")
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in copies]:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = copies[tensor.name]
        model.graph.initializer.append(copy)


def _inputs(layer: LayerEntry) -> tuple[str, ...]:
    return INPUTS if layer.activations is None else QUANTIZED_INPUTS


def _weight_misfits(
    model: onnx.ModelProto, node: onnx.NodeProto, layer: LayerEntry, manifest: Manifest
) -> Iterator[str]:
    """How the weights of a float layer differ from the manifest; inspection checks those of int8 layers."""
    if layer.activations is not None:
        return
    width = layer.num_learners * layer.hidden_dim
    shapes = {
        "w1": [layer.model_dim, width],
        "b1": [width],
        "w2": [width, layer.model_dim],
        "b2": [layer.num_learners + 1, layer.model_dim],
    }
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    element = PRECISIONS[manifest.dtype].onnx_type
    for name, value in zip(INPUTS[_FIRST_WEIGHT:], node.input[_FIRST_WEIGHT:], strict=True):
        if value not in tensors:
            yield f"{name} of layer {layer.name} ({value}) is not an initializer"
            return
        tensor = tensors[value]
        if list(tensor.dims) != shapes[name] or tensor.data_type != element:
            kinds = [TensorProto.DataType.Name(kind).lower() for kind in (tensor.data_type, element)]
            yield (
                f"{name} of layer {layer.name} is {kinds[0]} {list(tensor.dims)}; the manifest says {kinds[1]} "
                f"{shapes[name]}"
            )


def _compare_weights(
    model: onnx.ModelProto, nodes: dict[str, onnx.NodeProto], original: onnx.ModelProto, path: Path, source: Path
) -> None:
    """Compare the weights of all ACM layers with those of the original file, one tensor at a time."""
    ours = {tensor.name: tensor for tensor in model.graph.initializer}
    theirs = {tensor.name: tensor for tensor in original.graph.initializer}
    for node in gated_learners_nodes(original):
        inputs = nodes[node.name].input[_FIRST_WEIGHT:] if node.name in nodes else ()
        for new, old in zip(inputs, node.input[_FIRST_WEIGHT:], strict=False):
            if new not in ours or old not in theirs:
                continue
            values = tensor_values(ours[new], path.parent)
            before = tensor_values(theirs[old], source.parent)
            if values.shape != before.shape or values.tobytes() != before.tobytes():
                raise _misfit(path, source, f"{new} of layer {node.name} has other values than in {source.name}")


def _misfit(path: Path, source: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{path} does not fit the manifest of {source}: {reason}",
        "give the file that the other tool read, or export it again",
    )
