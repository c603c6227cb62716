"""Optimize PyTorch's raw ONNX graph, and name the ACM layers in it.

The weights are hidden from the optimizer: it would merge equal tensors (for example the zero thresholds of all layers)
under one layer's name, and keep a second copy of every transposed matrix in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from acm_export.base.errors import ExportError
from acm_export.modules.wrapper import PREFIX
from acm_export.op.quantized_signature import operator_of
from acm_export.op.signature import DOMAIN, INPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence


_BF16_CONV_OPSET = 22


def clean(model: ir.Model, layer_names: Sequence[str]) -> None:
    """Optimize and rename a graph, in place.

    Args:
        model: Unoptimized result of ``torch.onnx.export``, with a node for each ACM layer.
        layer_names: Names of the ACM layers; each must end up with exactly one node.

    Raises:
        ExportError: A layer has no node, or more than one.
    """
    hidden = _hide_weights(model.graph)
    optimizer.optimize_ir(model)
    _show_weights(model.graph, hidden)
    _fold_transposes(model.graph)
    if model.opset_imports[""] < _BF16_CONV_OPSET:
        _run_convolutions_in_float32(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    _name_layers(model.graph, layer_names)
    passes.ClearMetadataAndDocStringPass()(model)


def _hide_weights(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    hidden: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        if name.startswith(PREFIX) and value.const_value is not None:
            hidden[name] = value.const_value
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return hidden


def _show_weights(graph: ir.Graph, hidden: dict[str, ir.TensorProtocol]) -> None:
    """Restore the weights under their names without the prefix, unless an input or a node already has that name."""
    weights = [value for value in graph.inputs if value.name in hidden]
    for value in weights:
        graph.inputs.remove(value)
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken.update(output.name for node in graph.all_nodes() for output in node.outputs)
    for value in weights:
        name = str(value.name)
        value.const_value = hidden[name]
        value.name = _free_name(name, taken)
        taken.add(value.name)
        graph.register_initializer(value)


def _free_name(name: str, taken: set[str | None]) -> str:
    bare = name.removeprefix(PREFIX)
    while bare in taken:
        bare = f"{PREFIX}{bare}"
    return bare


def _fold_transposes(graph: ir.Graph) -> None:
    """Store transposed weights as ``NAME.T``; they are transposed only when the file is written."""
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or source is None or source.const_value is None or not source.is_initializer():
            continue
        tensor, order = source.const_value, node.attributes.get_ints("perm")
        name = f"{source.name}.T"
        if name not in graph.initializers:
            shape = ir.Shape([tensor.shape.numpy()[axis] for axis in order])
            lazy = ir.LazyTensor(
                lambda tensor=tensor, order=order, name=name: ir.Tensor(  # type: ignore[misc]
                    np.ascontiguousarray(tensor.numpy().transpose(order)), dtype=tensor.dtype, name=name
                ),
                dtype=tensor.dtype,
                shape=shape,
                name=name,
            )
            graph.register_initializer(
                ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
            )
        node.outputs[0].replace_all_uses_with(graph.initializers[name])
        graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _run_convolutions_in_float32(graph: ir.Graph) -> None:
    """Put casts around bfloat16 convolutions, which ONNX supports only from opset 22."""
    for node in [n for n in graph if n.op_type == "Conv" and n.outputs[0].dtype == ir.DataType.BFLOAT16]:
        for index, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(index, _cast(graph, value, ir.DataType.FLOAT, before=node))
        output = node.outputs[0]
        result = _cast(graph, output, ir.DataType.BFLOAT16, after=node)
        output.dtype = ir.DataType.FLOAT
        for user, index in list(output.uses()):
            if user is not result.producer():
                user.replace_input_with(index, result)


def _cast(
    graph: ir.Graph, value: ir.Value, dtype: ir.DataType, *, before: ir.Node | None = None, after: ir.Node | None = None
) -> ir.Value:
    name = f"{value.name}_{dtype.name.lower()}"
    cast = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=f"node_{name}")
    cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, dtype, value.shape
    if before is not None:
        graph.insert_before(before, cast)
    elif after is not None:
        graph.insert_after(after, cast)
    return cast.outputs[0]


def _name_layers(graph: ir.Graph, layer_names: Sequence[str]) -> None:
    found = []
    for node in graph:
        if node.domain != DOMAIN or operator_of(node.op_type) is None:
            continue
        # Layers are identified by their thresholds, which are never tied; weights may be.
        thresholds = node.inputs[INPUTS.index("thresholds")]
        layer = str(thresholds.name).removesuffix(".thresholds")  # type: ignore[union-attr]
        node.name = layer
        if not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"{layer}.y"
        node.outputs[1].name = f"counts/{layer}"
        found.append(layer)
    if sorted(found) != sorted(layer_names):
        missing = sorted(set(layer_names) - set(found)) or sorted({n for n in found if found.count(n) > 1})
        raise ExportError(
            f"expected one node for each of {len(layer_names)} ACM layers, found {len(found)}; "
            f"check {', '.join(missing[:3])}",
            "each ACM layer must run exactly once in the forward pass, with its own thresholds",
        )
