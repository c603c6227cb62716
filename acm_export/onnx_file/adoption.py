"""Restore the manifest that another tool removed, and the thresholds and budget input that it changed.

A changed weight, layer or operator is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

from acm_export.base.errors import ModelFileError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.manifest import AVOID_INLINING
from acm_export.onnx_file.model_file import remove_initializers, tensor_values
from acm_export.onnx_file.original import GIVE
from acm_export.onnx_file.targets import gated_learners_nodes, is_gated_learners, rewrite_for, signature_attributes
from acm_export.op.precision import PRECISIONS
from acm_export.op.signature import INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry, Manifest
    from acm_export.onnx_file.original import Original

_THRESHOLDS = INPUTS.index("thresholds")
_FIRST_WEIGHT = _THRESHOLDS + 1


def adopt(model: onnx.ModelProto, path: Path, original: Original) -> Manifest:
    """Fit a model to a manifest, in place: the names, thresholds, budget input and function bodies that it lost.

    Args:
        model: Model that another tool wrote from a file of acm-export.
        path: Path of the model, for errors, and the folder of its external data.
        original: The file before the other tool changed it. If it is an ONNX file, the weights of the ACM layers are
            compared too.

    Returns:
        The manifest, with the opset of the model.

    Raises:
        ModelFileError: The model does not fit the manifest.
    """
    manifest = original.manifest
    if manifest.layers and next(gated_learners_nodes(model), None) is None:
        raise ModelFileError(
            f"{path} has no ACM nodes; a tool that inlines functions removes them for good", AVOID_INLINING
        )
    nodes = _match(model, manifest)
    if reason := next(_misfits(model, nodes, original, path.parent), None):
        raise ModelFileError(f"{path} does not fit the manifest of {original.path}: {reason}", GIVE)
    for name, node in nodes.items():
        node.name = name
    _restore_thresholds(model, original, nodes)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), manifest.opset)
    return rewrite_for(model, manifest.replaced(opset=opset), manifest.target, folder=path.parent)


def _match(model: onnx.ModelProto, manifest: Manifest) -> dict[str, onnx.NodeProto]:
    """The node of each layer, found by its name or its thresholds."""
    nodes = list(gated_learners_nodes(model))
    by_name = {node.name: node for node in nodes}
    by_thresholds = {node.input[_THRESHOLDS]: node for node in nodes if len(node.input) > _THRESHOLDS}
    found = {layer.name: by_name.get(layer.name, by_thresholds.get(layer.thresholds)) for layer in manifest.layers}
    return {name: node for name, node in found.items() if node is not None}


def _misfits(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], original: Original, folder: Path
) -> Iterator[str]:
    """How a model differs from the original; a check may rely on those before it."""
    manifest = original.manifest
    yield from _node_misfits(model, nodes, manifest)
    for layer in manifest.layers:
        yield from _attribute_misfits(nodes[layer.name], layer)
    yield from _threshold_misfits(model, nodes, original, folder)
    inputs = [value.name for value in model.graph.input]
    for name in sorted(manifest.example_inputs.keys() - set(inputs)):
        yield f"the manifest has the input {name}, the file has {', '.join(inputs)}"
    for layer in manifest.layers:
        yield from _weight_misfits(model, nodes[layer.name], layer, manifest)
    yield from _changed_weights(model, nodes, folder, original)


def _node_misfits(model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], manifest: Manifest) -> Iterator[str]:
    for layer in manifest.layers:
        if layer.name not in nodes:
            yield f"no ACM node has the name {layer.name} or reads {layer.thresholds}"
    count = len(list(gated_learners_nodes(model)))
    if len({node.output[0] for node in nodes.values()}) != count:
        yield f"the file has {count} ACM nodes, the manifest {len(manifest.layers)} layers"


def _attribute_misfits(node: onnx.NodeProto, layer: LayerEntry) -> Iterator[str]:
    attributes = signature_attributes(node)
    for name, expected in layer.signature.attributes.items():
        if (found := attributes.get(name, 0)) != expected:
            yield f"{name} of layer {layer.name} is {found}; the manifest says {expected}"
    needed = len(layer.signature.inputs)
    if len(node.input) != needed:
        yield f"layer {layer.name} has {len(node.input)} inputs; the manifest needs {needed}"


def _threshold_misfits(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], original: Original, folder: Path
) -> Iterator[str]:
    budget_input_lost = "the other tool folded the budget input, and " if original.manifest.budget_input else ""
    same = _close if original.manifest.budget_input else np.array_equal
    stored = _stored_thresholds(model, nodes, folder)
    for layer in original.manifest.layers:
        if layer.name not in stored and not original.manifest.budget_input:
            yield f"the thresholds of layer {layer.name} are not an initializer"
        elif layer.name in stored and not same(stored[layer.name], original.thresholds[layer.name]):
            yield (
                f"{budget_input_lost}the thresholds of layer {layer.name} are {stored[layer.name].tolist()}; those of "
                f"{original.path.name} are {original.thresholds[layer.name].tolist()}"
            )
    others = (node for node in model.graph.node if not budget_input.is_ours(node.name))
    computed = {name for node in others for name in node.output}
    for name in sorted(computed & {layer.thresholds for layer in original.manifest.layers}):
        yield f"{name} is computed by nodes that are not those of the budget input"


def _close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Equal but for rounding: the other tool computed them from the budget."""
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def _stored_thresholds(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], folder: Path
) -> dict[str, NDArray[np.float32]]:
    """Thresholds of the layers whose thresholds are an initializer."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    read = {name: tensors.get(node.input[_THRESHOLDS]) for name, node in nodes.items()}
    return {name: tensor_values(tensor, folder) for name, tensor in read.items() if tensor is not None}


def _restore_thresholds(model: onnx.ModelProto, original: Original, nodes: Mapping[str, onnx.NodeProto]) -> None:
    """Give each layer its own initializer again; with a budget input, the nodes that compute it."""
    manifest, thresholds = original.manifest, original.thresholds
    names = {layer.thresholds for layer in manifest.layers}
    _unshare(model, names)
    for layer in manifest.layers:
        nodes[layer.name].input[_THRESHOLDS] = layer.thresholds
    remove_initializers(model, names)
    if manifest.budget_input:
        budget_input.detach(model, thresholds)
        budget_input.attach(model, manifest)
    else:
        model.graph.initializer.extend(
            numpy_helper.from_array(thresholds[e.name], e.thresholds) for e in manifest.layers
        )


def _unshare(model: onnx.ModelProto, thresholds: set[str]) -> None:
    """Copy constants that will be replaced for the nodes that a tool made read them because the values are equal."""
    copies: dict[str, str] = {}
    for node in model.graph.node:
        if is_gated_learners(node) or budget_input.is_ours(node.name):
            continue
        for index, name in enumerate(node.input):
            if name in thresholds or budget_input.is_ours(name):
                node.input[index] = copies.setdefault(name, f"adopted/{name}")
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in copies]:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = copies[tensor.name]
        model.graph.initializer.append(copy)


def _weight_misfits(
    model: onnx.ModelProto, node: onnx.NodeProto, layer: LayerEntry, manifest: Manifest
) -> Iterator[str]:
    """How the weights of a float layer differ from the manifest; inspection checks those of int8 layers."""
    if layer.activations is not None:
        return
    shapes = layer.signature.weight_shapes(layer.model_dim, layer.hidden_dim)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    element = PRECISIONS[manifest.dtype].onnx_type
    for name, value in zip(shapes, node.input[_FIRST_WEIGHT:], strict=True):
        if value not in tensors:
            yield f"{name} of layer {layer.name} ({value}) is not an initializer"
            return
        tensor = tensors[value]
        shape = list(shapes[name])
        if list(tensor.dims) != shape or tensor.data_type != element:
            kinds = [TensorProto.DataType.Name(kind).lower() for kind in (tensor.data_type, element)]
            yield (
                f"{name} of layer {layer.name} is {kinds[0]} {list(tensor.dims)}; the manifest says {kinds[1]} {shape}"
            )


def _changed_weights(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], folder: Path, original: Original
) -> Iterator[str]:
    """The weights of all ACM layers that differ from those of the original ONNX file, one tensor at a time."""
    if original.model is None:
        return
    ours = {tensor.name: tensor for tensor in model.graph.initializer}
    theirs = {tensor.name: tensor for tensor in original.model.graph.initializer}
    for node in gated_learners_nodes(original.model):
        inputs = nodes[node.name].input[_FIRST_WEIGHT:] if node.name in nodes else ()
        for new, old in zip(inputs, node.input[_FIRST_WEIGHT:], strict=False):
            if new not in ours or old not in theirs:
                continue
            values = tensor_values(ours[new], folder)
            before = tensor_values(theirs[old], original.path.parent)
            if values.shape != before.shape or values.tobytes() != before.tobytes():
                yield f"{new} of layer {node.name} has other values than in {original.path.name}"
