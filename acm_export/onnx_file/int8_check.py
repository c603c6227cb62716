"""Check the int8 parts of a graph against the manifest: inputs of the int8 operator, dense weights, embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.onnx_file.lowering.pack_int8 import packed_size
from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.op.quantized_signature import INT8_INPUTS, MAX_SUM
from acm_export.op.signature import INPUTS

_FIRST_WEIGHT = INPUTS.index("thresholds") + 1

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from acm_export.onnx_file.manifest import LayerEntry, Manifest


def int8_contradiction(model: onnx.ModelProto, manifest: Manifest) -> str | None:
    """How the int8 parts of a graph differ from the manifest, as a sentence, or None.

    Args:
        model: Model with one node of the right operator for each layer of the manifest.
        manifest: Manifest of the model.
    """
    return next(_contradictions(model, manifest), None)


def _contradictions(model: onnx.ModelProto, manifest: Manifest) -> Iterator[str]:
    quantization = manifest.quantization
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in gated_learners_nodes(model)}
    for layer in manifest.layers:
        if layer.activations is None:
            continue
        if quantization is None or layer.activations != quantization.activations:
            says = "no quantisation" if quantization is None else f"{quantization.activations} activations"
            yield f"layer {layer.name} has {layer.activations} int8 activations, but the manifest says {says}"
        yield from _layer_contradictions(nodes[layer.name], layer, tensors, packed=manifest.target != "portable")
    if quantization is None:
        return
    for kind, names in (("linear layer", quantization.linears), ("embedding table", quantization.embeddings)):
        for name in names:
            if name not in tensors or tensors[name].data_type != TensorProto.INT8:
                yield f"{name} ({kind}) is not int8, but the manifest says it is"


def _layer_contradictions(
    node: onnx.NodeProto, layer: LayerEntry, tensors: dict[str, TensorProto], *, packed: bool
) -> Iterator[str]:
    if (largest := max(layer.model_dim, layer.num_learners * layer.hidden_dim)) > MAX_SUM:
        yield f"layer {layer.name} sums {largest} products in int32, which holds at most {MAX_SUM}"
    shapes = layer.signature.weight_shapes(layer.model_dim, layer.hidden_dim)
    for name, value in zip(shapes, node.input[_FIRST_WEIGHT:], strict=True):
        if value not in tensors:
            yield f"the initializer {value} ({name} of layer {layer.name}) is missing"
            return
        found = _form(tensors[value])
        expected = (TensorProto.INT8 if name in INT8_INPUTS else TensorProto.FLOAT), list(shapes[name])
        if packed and name in INT8_INPUTS:
            expected = TensorProto.INT32, [packed_size(math.prod(expected[1]))]
        if found != expected:
            yield f"{value} is {_describe(found)}; {name} of layer {layer.name} must be {_describe(expected)}"


def _form(tensor: TensorProto) -> tuple[int, list[int]]:
    return tensor.data_type, list(tensor.dims)


def _describe(form: tuple[int, list[int]]) -> str:
    return f"{TensorProto.DataType.Name(form[0]).lower()} {form[1]}"
