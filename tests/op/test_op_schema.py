"""The op in the ONNX checker and in shape inference."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from onnx.defs import get_schema

from acm_export.base.errors import OpError
from acm_export.op import ACTIVATIONS, DOMAIN, INPUTS, NAME, VERSION, Signature
from acm_export.op.schema import infer_shapes, register

N, MIN, D, H = 3, 1, 8, 5
SHAPES: dict[str, Any] = {
    "x": ["batch", 7, D],
    "gate_logits": ["batch", 7, N - MIN + 1],
    "thresholds": [N],
    "w1": [D, N * H],
    "b1": [N * H],
    "w2": [N * H, D],
    "b2": [N + 1, D],
}


def op_model(
    shapes: dict[str, Any] | None = None, element: int = TensorProto.FLOAT, gate: int | None = None, **attributes: Any
) -> onnx.ModelProto:
    """One node, every input a graph input, no shapes given for the outputs."""
    register()
    given = {"num_learners": N, "min_learners": MIN, "activation": "gelu"} | attributes
    node = helper.make_node(
        NAME, list(INPUTS), ["y", "counts"], domain=DOMAIN, **{k: v for k, v in given.items() if v is not None}
    )
    types = dict.fromkeys(INPUTS, element) | dict.fromkeys(("gate_logits", "thresholds"), gate or TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info(k, types[k], shape) for k, shape in (SHAPES | (shapes or {})).items()]
    outputs = [
        helper.make_tensor_value_info("y", element, None),
        helper.make_tensor_value_info("counts", TensorProto.INT32, None),
    ]
    return helper.make_model(
        helper.make_graph([node], "op", inputs, outputs),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
    )


def inferred(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any] | None]]:
    """Element type and shape of the outputs."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    result = {}
    for value in model.graph.output:
        tensor = value.type.tensor_type
        dims = [getattr(d, d.WhichOneof("value")) if d.WhichOneof("value") else None for d in tensor.shape.dim]
        result[value.name] = (tensor.elem_type, dims if tensor.HasField("shape") else None)
    return result


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_y_has_the_type_and_shape_of_x_and_counts_are_int32_without_d(element: int) -> None:
    assert inferred(op_model(element=element)) == {
        "y": (element, ["batch", 7, D]),
        "counts": (TensorProto.INT32, ["batch", 7]),
    }


@pytest.mark.parametrize(
    ("shapes", "tokens"),
    [
        ({"x": [D], "gate_logits": [N - MIN + 1]}, []),
        ({"x": [0, D], "gate_logits": [0, N - MIN + 1]}, [0]),
        ({"x": ["t", "width"], "gate_logits": ["t", None]}, ["t"]),
        ({"x": [None, None, None], "gate_logits": ["batch", 7, None]}, ["batch", 7]),
        ({"x": ["batch", "tokens", D], "gate_logits": ["batch", 7, N - MIN + 1]}, ["batch", 7]),
        ({"x": None}, ["batch", 7]),
        ({"gate_logits": None}, ["batch", 7]),
        ({"x": [2, 3, 4, D], "gate_logits": [2, 3, 4, N - MIN + 1]}, [2, 3, 4]),
    ],
)
def test_dimensions_unknown_in_one_input_are_taken_from_another(shapes: dict[str, Any], tokens: list[Any]) -> None:
    assert inferred(op_model(shapes)) == {
        "y": (TensorProto.FLOAT, [*tokens, D]),
        "counts": (TensorProto.INT32, tokens),
    }


def test_without_any_shape_the_types_are_still_inferred() -> None:
    assert inferred(op_model(dict.fromkeys(INPUTS))) == {"y": (1, None), "counts": (TensorProto.INT32, None)}


CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"thresholds": [N + 1]}, ("thresholds", "4", "3")),
    ({"thresholds": [1, N]}, ("thresholds", "rank 2", "1")),
    ({"w1": [D]}, ("w1", "rank 1", "2")),
    ({"b1": [N, H]}, ("b1", "rank 2", "1")),
    ({"w2": [N, H, D]}, ("w2", "rank 3", "2")),
    ({"b2": [(N + 1) * D]}, ("b2", "rank 1", "2")),
    ({"x": []}, ("x", "scalar")),
    ({"gate_logits": []}, ("gate_logits", "scalar")),
    ({"w1": [D + 1, N * H]}, ("D", "8", "9", "w1")),
    ({"w2": [N * H, D + 1]}, ("D", "8", "9", "w2")),
    ({"b2": [N + 1, D + 1]}, ("D", "8", "9", "b2")),
    ({"x": ["batch", 7, D + 1]}, ("D", "9", "8", "x")),
    ({"b1": [N * H + N]}, ("N*h", "15", "18", "b1")),
    ({"w2": [N * H - N, D]}, ("N*h", "15", "12", "w2")),
    ({"w1": [D, 16], "b1": [16], "w2": [16, D]}, ("16", "num_learners = 3")),
    ({"w1": [D, 0], "b1": [0], "w2": [0, D]}, ("0", "num_learners = 3")),
    ({"x": ["batch", 7, 0], "w1": [0, 15], "w2": [15, 0], "b2": [4, 0]}, ("D is 0",)),
    ({"gate_logits": ["batch", 7, N + 1]}, ("gate_logits", "4", "3")),
    ({"b2": [N, D]}, ("b2", "3", "4")),
    ({"gate_logits": ["batch", 6, N - MIN + 1]}, ("7", "6", "gate_logits")),
    ({"gate_logits": [7, N - MIN + 1]}, ("rank 3", "rank 2")),
]


@pytest.mark.parametrize(("shapes", "said"), CONTRADICTIONS)
def test_contradictory_shapes_are_refused_with_both_values(shapes: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(OpError) as refused:
        infer_shapes(list((SHAPES | shapes).values()), Signature(N, MIN, "gelu"))
    with pytest.raises(onnx.shape_inference.InferenceError) as inferring:
        inferred(op_model(shapes))
    for part in said:
        assert part in str(refused.value)
        assert part in str(inferring.value)


def check(model: onnx.ModelProto) -> None:
    for value, rank in zip(model.graph.output, (3, 2), strict=True):  # the checker wants a rank
        element = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, [None] * rank))
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)


@pytest.mark.parametrize(("shapes", "said"), CONTRADICTIONS[:4])
def test_the_full_checker_refuses_contradictory_shapes(shapes: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError, match=said[0]):
        check(op_model(shapes))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"num_learners": 0}, "num_learners is 0"),
        ({"num_learners": 65}, "num_learners is 65.*64"),
        ({"num_learners": -1}, "num_learners is -1"),
        ({"min_learners": -1}, "min_learners is -1.*0..3"),
        ({"min_learners": 4}, "min_learners is 4.*0..3"),
        ({"activation": "tanh"}, "'tanh'.*gelu_tanh"),
    ],
)
def test_attributes_out_of_range_are_refused(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError, match=said):
        inferred(op_model(**attributes))


@pytest.mark.parametrize("missing", ["num_learners", "min_learners", "activation"])
def test_each_attribute_is_required(missing: str) -> None:
    with pytest.raises(onnx.checker.ValidationError, match=missing):
        check(op_model(**{missing: None}))


def test_unknown_attributes_are_refused_and_the_plugin_fields_are_not() -> None:
    check(op_model(plugin_version="1", plugin_namespace=""))
    with pytest.raises(onnx.checker.ValidationError, match="learners"):
        check(op_model(learners=3))


@pytest.mark.parametrize(
    "types", [{"element": TensorProto.DOUBLE}, {"gate": TensorProto.FLOAT16}, {"element": TensorProto.INT32}]
)
def test_unsupported_types_are_refused(types: dict[str, int]) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"(?i)type"):
        inferred(op_model(**types))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_passes_the_checker(activation: str) -> None:
    check(op_model(activation=activation))


def test_registering_twice_is_harmless_and_the_schema_is_found() -> None:
    register()
    register()
    schema = get_schema(NAME, VERSION, DOMAIN)
    assert [i.name for i in schema.inputs] == list(INPUTS)
    assert (schema.domain, schema.since_version) == (DOMAIN, VERSION)
