"""The operators for gated FFNs: signatures, the ONNX checker, shape inference, and the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.defs import get_schema

from acm_export.base.errors import OpError
from acm_export.op import DOMAIN, GLU_INPUTS, QUANTIZED_GLU_INPUTS, VERSION, QuantizedSignature, Signature
from acm_export.op.quantized_reference import quantized_gated_learners
from acm_export.op.quantized_signature import INT8_INPUTS, operator_of
from acm_export.op.reference import gated_learners
from acm_export.op.schema import infer_shapes, register

N, MIN, D, H = 3, 1, 8, 5
SIGNATURES = [Signature(N, MIN, "silu", glu=True), QuantizedSignature(N, MIN, "silu", glu=True)]
LEADING: dict[str, Any] = {"x": ["batch", 7, D], "gate_logits": ["batch", 7, N - MIN + 1], "thresholds": [N]}


def shapes_of(signature: Signature, **changes: Any) -> dict[str, Any]:
    weights = {name: list(shape) for name, shape in signature.weight_shapes(D, H).items()}
    return LEADING | weights | changes


def type_of(name: str, signature: Signature, element: int) -> int:
    if name == "x" or (not isinstance(signature, QuantizedSignature) and name not in ("gate_logits", "thresholds")):
        return element
    return int(TensorProto.INT8 if name in INT8_INPUTS else TensorProto.FLOAT)


def inferred(signature: Signature, element: int = TensorProto.FLOAT, **changes: Any) -> list[Any]:
    """Element type and dimensions of y and counts, for a node whose inputs are all graph inputs."""
    register()
    shapes = shapes_of(signature, **changes)
    node = helper.make_node(signature.operator, list(shapes), ["y", "counts"], domain=DOMAIN, **signature.attributes)
    inputs = [helper.make_tensor_value_info(k, type_of(k, signature, element), shape) for k, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", element, None)]
    outputs += [helper.make_tensor_value_info("counts", TensorProto.INT32, None)]
    model = helper.make_model(
        helper.make_graph([node], "op", inputs, outputs),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
    )
    done = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = []
    for value in done.graph.output:
        dims = value.type.tensor_type.shape.dim
        found.append((value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims]))
    return found


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda s: s.operator)
def test_y_has_the_type_and_shape_of_x(signature: Signature, element: int) -> None:
    assert inferred(signature, element) == [(element, ["batch", 7, D]), (TensorProto.INT32, ["batch", 7])]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v1": [D + 1, N * H]}, ("D", "8", "9", "v1")),
        ({"v1": [D, N * H + N]}, ("N*h", "15", "18", "v1")),
        ({"v1": [D]}, ("v1", "rank 1", "2")),
        ({"c1": [N * H - N]}, ("N*h", "15", "12", "c1")),
        ({"c1": [N, H]}, ("c1", "rank 2", "1")),
    ],
)
@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda s: s.operator)
def test_contradictions_of_the_multiplied_branch_name_both_values(
    signature: Signature, changes: Any, said: tuple[str, ...]
) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError) as refused:
        inferred(signature, **changes)
    for part in (signature.operator, *said):
        assert part in str(refused.value)


@pytest.mark.parametrize(("shape", "said"), [([N * H + 1], "16 in t1"), ([N, H], "t1 has rank 2; expected 1")])
def test_contradicting_scales_of_the_multiplied_branch_are_refused(shape: list[int], said: str) -> None:
    signature = SIGNATURES[1]
    with pytest.raises(OpError, match=said):
        infer_shapes(list(shapes_of(signature, t1=shape).values()), signature)


def test_the_registered_schemas_have_the_inputs_of_the_signatures() -> None:
    register()
    for signature, inputs in zip(SIGNATURES, (GLU_INPUTS, QUANTIZED_GLU_INPUTS), strict=True):
        schema = get_schema(signature.operator, VERSION, DOMAIN)
        assert tuple(i.name for i in schema.inputs) == signature.inputs == inputs
        assert set(signature.attributes) <= schema.attributes.keys()
        assert "glu" not in schema.attributes


def test_names_tell_the_operators_apart() -> None:
    names = {
        Signature(4, 0, "silu").function_name: "GatedLearners",
        Signature(4, 0, "silu", glu=True).function_name: "GLUGatedLearners",
        QuantizedSignature(4, 0, "silu").function_name: "QuantizedGatedLearners",
        QuantizedSignature(4, 0, "silu", 1, glu=True).function_name: "QuantizedGLUGatedLearners",
    }
    assert {name: operator_of(name) for name in names} == names
    assert "GLUGatedLearners_n4_min0_silu" in names
    assert "QuantizedGLUGatedLearners_n4_min0_silu_dynamic" in names
    assert operator_of("GLUGatedLearnersX_n4") is None


@pytest.mark.parametrize("glu", [1, "yes", None])
def test_a_kind_that_is_not_true_or_false_is_refused(glu: Any) -> None:
    with pytest.raises(OpError, match="glu is"):
        Signature(4, 0, "silu", glu=glu)


def test_the_reference_multiplies_the_branches_of_the_learners_that_run() -> None:
    w1, b1 = np.array([[1.0, 2.0]]), np.array([0.0, 1.0])
    v1, c1 = np.array([[3.0, -1.0]]), np.array([0.5, 0.0])
    w2, b2 = np.array([[10.0], [100.0]]), np.array([[0.1], [0.2], [0.3]])
    signature = Signature(2, 0, "relu", glu=True)
    y, counts = gated_learners(
        np.ones((3, 1)), np.eye(3, dtype=np.float32), np.zeros(2), w1, b1, w2, b2, signature, v1=v1, c1=c1
    )
    assert counts.tolist() == [0, 1, 2]
    np.testing.assert_allclose(y[:, 0], [0.1, 0.2 + 1 * 3.5 * 10, 0.3 + 35 + 3 * -1 * 100])


def test_the_int8_reference_rounds_the_product_once() -> None:
    signature = QuantizedSignature(1, 1, "relu", glu=True)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    y, _ = quantized_gated_learners(
        np.full((1, 1), 3.0),
        np.zeros((1, 1), np.float32),
        zero,
        x_mult=one,
        w1=np.full((1, 1), 5, np.int8),
        s1=one / 10,
        b1=zero,
        v1=np.full((1, 1), -7, np.int8),
        t1=one / 10,
        c1=one / 4,
        h_mult=one,
        h_zero=np.zeros(1, np.int8),
        w2=np.full((1, 1), 2, np.int8),
        s2=one,
        b2=np.zeros((2, 1), np.float32),
        signature=signature,
    )
    assert y.item() == 2 * round(1.5 * (-2.1 + 0.25))  # -2.775, where rounded factors would give 2 * -2
