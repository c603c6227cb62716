"""The int8 operator in the ONNX checker and in shape inference."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from acm_export.base.errors import OpError
from acm_export.op import DOMAIN, QUANTIZED_INPUTS, QUANTIZED_NAME, VERSION, QuantizedSignature
from acm_export.op.quantized_signature import INT8_INPUTS, MAX_SUM
from acm_export.op.schema import infer_shapes, register

N, MIN, D, H = 3, 1, 8, 5
FLOAT32_INPUTS = ("gate_logits", "thresholds", "x_mult", "s1", "b1", "h_mult", "s2", "b2")
SHAPES: dict[str, Any] = {
    "x": ["batch", 7, D],
    "gate_logits": ["batch", 7, N - MIN + 1],
    "thresholds": [N],
    "x_mult": [D],
    "w1": [D, N * H],
    "s1": [N * H],
    "b1": [N * H],
    "h_mult": [N],
    "h_zero": [N],
    "w2": [N * H, D],
    "s2": [D],
    "b2": [N + 1, D],
}
TYPES = dict.fromkeys(INT8_INPUTS, TensorProto.INT8) | dict.fromkeys(FLOAT32_INPUTS, TensorProto.FLOAT)


def op_model(
    shapes: dict[str, Any] | None = None, types: dict[str, int] | None = None, **attributes: Any
) -> onnx.ModelProto:
    """One node, every input a graph input, no shapes given for the outputs."""
    register()
    given = {"num_learners": N, "min_learners": MIN, "activation": "gelu"} | attributes
    node = helper.make_node(QUANTIZED_NAME, list(QUANTIZED_INPUTS), ["y", "counts"], domain=DOMAIN, **given)
    kinds = {"x": TensorProto.FLOAT} | TYPES | (types or {})
    inputs = [helper.make_tensor_value_info(k, kinds[k], shape) for k, shape in (SHAPES | (shapes or {})).items()]
    outputs = [
        helper.make_tensor_value_info("y", kinds["x"], None),
        helper.make_tensor_value_info("counts", TensorProto.INT32, None),
    ]
    return helper.make_model(
        helper.make_graph([node], "op", inputs, outputs),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
    )


def infer(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any]]]:
    """Element type and shape of the outputs."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in model.graph.output
    }


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("attributes", [{}, {"dynamic": 1}, {"plugin_version": "1", "plugin_namespace": ""}])
def test_y_has_the_type_and_shape_of_x(element: int, attributes: dict[str, Any]) -> None:
    model = op_model(types={"x": element}, **attributes)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)
    assert infer(model) == {"y": (element, ["batch", 7, D]), "counts": (TensorProto.INT32, ["batch", 7])}


@pytest.mark.parametrize(("name", "wrong"), [(n, TensorProto.FLOAT16) for n in FLOAT32_INPUTS] + [("w1", 1), ("w2", 1)])
def test_other_types_are_refused(name: str, wrong: int) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError, match="type"):
        infer(op_model(types={name: wrong}))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x_mult": [D + 1]}, "D is 8 in w1 but 9 in x_mult"),
        ({"s2": [D - 1]}, "D is 8 in w1 but 7 in s2"),
        ({"s1": [N * H + 1]}, r"N\*h is 15 in w1 but 16 in s1"),
        ({"h_mult": [N + 1]}, "h_mult has size 4 where num_learners = 3 is expected"),
        ({"h_zero": [1]}, "h_zero has size 1 where num_learners = 3 is expected"),
        ({"s1": [N, H]}, "s1 has rank 2; expected 1"),
        ({"w2": [N * H, D + 1]}, "D is 8 in x but 9 in w2"),
        ({"b2": [N, D]}, r"b2 has size 3 where num_learners \+ 1 = 4 is expected"),
    ],
)
def test_contradicting_shapes_are_refused_with_both_values(shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError, match=message):
        infer(op_model(shapes))


def test_sums_that_could_overflow_are_refused() -> None:
    assert 128 * 127 * MAX_SUM < 2**31
    signature = QuantizedSignature(1, 0, "gelu")
    shapes = {"w1": [4, MAX_SUM + 1], "w2": [MAX_SUM + 1, 4]}
    given = [shapes.get(name) for name in QUANTIZED_INPUTS]
    with pytest.raises(OpError, match=r"N\*h is 130001; int32 sums of int8 products allow at most 130000"):
        infer_shapes(given, signature)
    shapes = {"w1": [MAX_SUM + 1, 4]}
    with pytest.raises(OpError, match="D is 130001"):
        infer_shapes([shapes.get(name) for name in QUANTIZED_INPUTS], signature)


@pytest.mark.parametrize(("dynamic", "ok"), [(0, True), (1, True), (2, False)])
def test_dynamic_is_0_or_1(dynamic: int, ok: bool) -> None:
    if ok:
        infer(op_model(dynamic=dynamic))
        return
    with pytest.raises(onnx.shape_inference.InferenceError, match="dynamic is 2; it must be 0 or 1"):
        infer(op_model(dynamic=dynamic))


def test_every_signature_has_a_body_of_its_own() -> None:
    names = {
        QuantizedSignature(n, m, a, d).function_name
        for n in (2, 3)
        for m in (0, 1)
        for a in ("gelu", "relu")
        for d in (0, 1)
    }
    assert len(names) == 16
