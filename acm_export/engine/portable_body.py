"""What NVIDIA's parser needs of a portable file besides the file itself (tested: TensorRT-RTX 1.7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.zero_points import fit_zero_points

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

    from acm_export.onnx_file.manifest import Manifest

_PREFIX = "execution/"


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


def fit_parser(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Adapt a portable model in place: int8 zero points of dense layers, and the inputs that set learner counts.

    Args:
        model: Model for the target ``portable``.
        manifest: Its manifest.
    """
    fit_zero_points(model, "tensorrt")
    thresholds = {layer.thresholds for layer in manifest.layers}
    _compute_on_device(model, [v for v in model.graph.input if v.name in thresholds | {budget_input.INPUT}])


def _compute_on_device(model: onnx.ModelProto, inputs: Iterable[onnx.ValueInfoProto]) -> None:
    """Multiply inputs by 1 in a MatMul.

    Learner counts decide the sizes of slices. The parser takes an input of rank 0 or 1 that a size depends on for a
    shape tensor, which must be an integer, unless an operator on the way cannot be computed on shapes.
    """
    initializers, nodes = [], []
    for value in inputs:
        name, sizes = value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for node in model.graph.node:
            for i, read in enumerate(node.input):
                if read == name:
                    node.input[i] = _PREFIX + name
        column, product = f"{_PREFIX}{name}/column", f"{_PREFIX}{name}/product"
        shapes = {f"{column}_shape": [-1, 1], f"{product}_shape": sizes}
        initializers += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
        initializers.append(numpy_helper.from_array(np.ones((1, 1), np.float32), f"{column}_one"))
        nodes += [
            helper.make_node("Reshape", [name, f"{column}_shape"], [column], name=column),
            helper.make_node("MatMul", [column, f"{column}_one"], [product], name=product),
            helper.make_node("Reshape", [product, f"{product}_shape"], [_PREFIX + name], name=_PREFIX + name),
        ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(initializers)
