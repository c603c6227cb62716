"""Rewrite dense linear layers for int8, in the convention of explicit quantisation.

    x -> [Mul by a migration] -> QuantizeLinear -> DequantizeLinear -> MatMul <- DequantizeLinear <- int8 weight

Both sides are symmetric int8 with zero point 0, as TensorRT takes them; in portable files the activations become uint8
with zero point 128 (``zero_points.py``), and ONNX Runtime fuses the nodes into one int8 product. The zero points are
written out, because ONNX Runtime 1.20 and 1.23 need them. With dynamic scales, each row is first divided by its largest
absolute value, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from acm_export.op.quantized_signature import SMALLEST_RANGE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray
    from onnx import NodeProto

    from acm_export.onnx_file.quantization.edit import GraphEdit
    from acm_export.onnx_file.quantization.linears import DenseLinear, Site
    from acm_export.onnx_file.quantization.view import GraphView

_FLOAT16_SCALES_OPSET = 19
_AXES_INPUT_OPSET = 18
_LEVELS = np.float32(127)


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight in int8.

    Args:
        values: int8 ``[in_features, out_features]``.
        scale: float32 ``[out_features]``.
        bias: float32 ``[out_features]``, the corrected bias; None to keep the layer's bias.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class QuantizedSite:
    """Scales of a site.

    Args:
        scale: Scale of the activations, after migration; None to scale each row at run time.
        migration: float32 ``[D]``, multiplier of the channels of x; None for none.
        weights: The weights of the linear layers, by name, which contain the inverse of the migration.
    """

    scale: float | None
    migration: NDArray[np.float32] | None
    weights: Mapping[str, QuantizedWeight]


def rewrite_site(site: Site, scales: QuantizedSite, view: GraphView, edit: GraphEdit, opset: int) -> None:
    """Replace the products of a site by int8 products.

    Args:
        site: Tensor and the linear layers that read it.
        scales: Scales and weights for it.
        view: View of the graph.
        edit: Receives the new nodes and weights.
        opset: Version of the default operator set, at least 17.
    """
    element = view.element_type(site.linears[0].weight)
    scale_type = scale_element(element, opset, dynamic=scales.scale is None)
    steps = _Steps(site, view, edit, scale_type)
    x = site.x
    if scales.migration is not None and site.norm is None:
        x = steps.add("Mul", x, edit.weight(f"{site.x}.migration", scales.migration, element), name="migrated")
    if scale_type != element:
        x = steps.add("Cast", x, name="float32", to=TensorProto.FLOAT)
    factor = None
    if scales.scale is None:
        x, factor = _divided_rows(x, steps, opset)
    x = steps.quantized(x, 1.0 if scales.scale is None else scales.scale)
    if scales.migration is not None and site.norm is not None:
        for name in filter(None, (site.norm.weight, site.norm.bias)):
            edit.replace_weight(name, view.read(name) * scales.migration, view.element_type(name))
    before = steps.nodes
    for linear in site.linears:
        node = view.producer(linear.product)
        if node is None:
            raise ValueError(f"no node computes {linear.product}")
        nodes = _product(linear, node, x, factor, scales.weights[linear.weight], steps)
        edit.replace(node, [*before, *nodes])
        before = []


def scale_element(element: int, opset: int, *, dynamic: bool) -> int:
    """Element type of the scales of a site, and of its values between quantising and the end of the products.

    Args:
        element: Element type of the float weights.
        opset: Version of the default operator set.
        dynamic: Whether rows are scaled at run time, which takes float32.
    """
    return TensorProto.FLOAT if dynamic or opset < _FLOAT16_SCALES_OPSET else element


def _product(
    linear: DenseLinear, node: NodeProto, x: str, factor: str | None, weight: QuantizedWeight, steps: _Steps
) -> list[NodeProto]:
    edit, element = steps.edit, steps.view.element_type(linear.weight)
    edit.replace_weight(linear.weight, weight.values)
    scale = edit.weight(f"{linear.weight}.scale", weight.scale, steps.element)
    zero = edit.weight(f"{linear.weight}.zero", np.zeros(linear.out_features, np.int8))
    if weight.bias is not None and linear.bias is not None:
        edit.replace_weight(linear.bias, weight.bias, steps.view.element_type(linear.bias))
    floats = edit.fresh(f"{linear.weight}.float")
    nodes = [helper.make_node("DequantizeLinear", [linear.weight, scale, zero], [floats], name=floats, axis=1)]
    edit.describe_weight(floats, (linear.in_features, linear.out_features), steps.element)
    chain: list[tuple[str, list[str]]] = [("MatMul", [x, floats])]
    chain += [("Mul", [factor])] if factor is not None else []
    chain += [("Cast", [])] if steps.element != element else []
    previous: list[str] = []
    for op_type, more in chain:
        last = len(nodes) == len(chain)
        output = linear.product if last else edit.fresh(f"{linear.product}.{op_type}")
        new = helper.make_node(op_type, [*previous, *more], [output], name=node.name if len(nodes) == 1 else output)
        if op_type == "Cast":
            new.attribute.append(helper.make_attribute("to", element))
        if not last:
            edit.describe(output, like=linear.product, element=steps.element)
        nodes.append(new)
        previous = [output]
    return nodes


def _divided_rows(x: str, steps: _Steps, opset: int) -> tuple[str, str]:
    """X with each row scaled to ±127, and the factor ``[..., 1]`` that its products are multiplied with."""
    edit = steps.edit
    levels, smallest = edit.constant("int8/levels", _LEVELS), edit.constant("int8/smallest", np.float32(SMALLEST_RANGE))
    size = steps.add("Abs", x, name="abs")
    if opset >= _AXES_INPUT_OPSET:
        axes = edit.constant("int8/last_axis", np.array([-1], np.int64))
        largest = steps.add("ReduceMax", size, axes, name="largest", last=1, keepdims=1)
    else:
        largest = steps.add("ReduceMax", size, name="largest", last=1, keepdims=1, axes=[-1])
    largest = steps.add("Max", largest, smallest, name="range", last=1)
    scaled = steps.add("Mul", x, steps.add("Div", levels, largest, name="multiplier", last=1), name="scaled")
    return scaled, steps.add("Div", largest, levels, name="factor", last=1)


class _Steps:
    """The nodes before the products of a site; new values are named after the site's tensor."""

    def __init__(self, site: Site, view: GraphView, edit: GraphEdit, element: int) -> None:
        self.nodes: list[NodeProto] = []
        self.view, self.edit, self.element, self._x = view, edit, element, site.x

    def add(self, op_type: str, *inputs: str, name: str, last: int | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = self.edit.fresh(f"{self._x}.{name}")
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        element = None if name == "migrated" else TensorProto.INT8 if op_type == "QuantizeLinear" else self.element
        self.edit.describe(output, like=self._x, element=element, last=last)
        return output

    def quantized(self, x: str, scale: float) -> str:
        """Quantise and dequantise a value; returns the name of the result."""
        values = self.edit.weight(f"{self._x}.scale", np.float32(scale), self.element)
        zero = self.edit.weight(f"{self._x}.zero", np.zeros((), np.int8))
        q = self.add("QuantizeLinear", x, values, zero, name="int8")
        return self.add("DequantizeLinear", q, values, zero, name="float")
