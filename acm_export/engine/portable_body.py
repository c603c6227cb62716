"""Adapt a portable file to the parser of TensorRT-RTX (tested: 1.7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.lowering import normalizations_in_float32
from acm_export.onnx_file.zero_points import fit_zero_points

if TYPE_CHECKING:
    import onnx

    from acm_export.engine.profiles import Shape
    from acm_export.onnx_file.manifest import Manifest


def check_no_int8_layers(manifest: Manifest) -> None:
    """Refuse int8 ACM layers.

    Raises:
        ExportError: A layer is int8.
    """
    if int8 := [layer.name for layer in manifest.layers if layer.activations is not None]:
        raise ExportError(
            f"layer {int8[0]} is int8; its portable body needs MatMulInteger, which the parser of TensorRT-RTX does "
            "not support",
            "build the engine from the float file; TensorRT runs int8 ACM layers in the plugin",
        )


def fit_parser(model: onnx.ModelProto, manifest: Manifest) -> dict[str, Shape]:
    """Adapt a portable model in place: int8 zero points, normalizations, and the inputs that decide learner counts.

    The network is strongly typed, so zero points are int8 and half-precision normalizations run in float32, as in files
    for TensorRT.

    Learner counts are sizes of slices. The parser takes a small input of constant shape that a size depends on for a
    shape tensor, which must be an integer. So the size of a budget or thresholds input gets a name, as if it could
    vary, and the budget has the shape ``[1]``.

    Args:
        model: Model for the target ``portable``.
        manifest: Its manifest.

    Returns:
        The shapes that these inputs have in every call.
    """
    fit_zero_points(model, "tensorrt")
    normalizations_in_float32(model.graph)
    controls = {budget_input.INPUT, *(layer.thresholds for layer in manifest.layers)}
    return {value.name: _name_size(model, value) for value in model.graph.input if value.name in controls}


def _name_size(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> Shape:
    """Give the size of a float input of rank 0 or 1 a name; nodes of the graph read a tensor of the original shape."""
    name, sizes = value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    inner = f"{name}/value"
    for node in model.graph.node:
        node.input[:] = [inner if read == name else read for read in node.input]
    value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}/size"]))
    to = numpy_helper.from_array(np.array(sizes or [0], np.int64), f"{inner}/{'shape' if sizes else 'axes'}")
    model.graph.initializer.append(to)
    kind = "Reshape" if sizes else "Squeeze"
    model.graph.node.insert(0, helper.make_node(kind, [name, to.name], [inner], name=inner))
    return tuple(sizes or [1])
