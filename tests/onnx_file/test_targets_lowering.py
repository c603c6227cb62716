"""The rules that lower a graph for TensorRT 8.5: their output, its numerical equality, and refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from exported_files import session
from onnx import TensorProto, defs, parser

from acm_export.base.errors import ExportError
from acm_export.onnx_file.lowering import IR_VERSION, OPSET, lower
from acm_export.onnx_file.lowering.lower import DECOMPOSITIONS, RULES
from acm_export.onnx_file.lowering.operators import CHANGED, PARSED

LARGE = np.linspace(-300, 300, 48).reshape(2, 3, 8)
SMALL = LARGE / 75


def graph_of(text: str, opset: int = 20) -> onnx.ModelProto:
    """A model from ``g (inputs) => (outputs) <initializers> { nodes }``, with the types of all its values."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    return onnx.shape_inference.infer_shapes(model)


def lowered(model: onnx.ModelProto, opset: int = 20) -> onnx.ModelProto:
    """A lowered copy, checked at opset 17."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lower(copy.graph, opset)
    copy.opset_import[0].version = OPSET
    copy.ir_version = IR_VERSION
    onnx.checker.check_model(copy, full_check=True)
    return copy


def count(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node))


def run(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    return list(session(model.SerializeToString()).run(None, feeds))


X, Y = "g (float[a, 3, 8] x)", "(float[a, 3, 8] y)"
NORM_X = "g (float[a, 3, 8] x, float[8] w, float[8] b)"
HALF_X, HALF_NORM_X, HALF_Y = (text.replace("float", "float16") for text in (X, NORM_X, Y))
THREE_PARTS = "Split <axis = -1, num_outputs = 3>"
CONSTANT_INTS = "i = Constant <value_ints = [2, -1]> () y = Reshape (x, i)"
ROUND = "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
COLUMNS = "<float[8] s = {1, 2, 3, 4, 5, 6, 7, 8}, int8[8] z = {0, 0, 0, 0, 0, 0, 0, 1}>"
NORMALIZATION = {"ReduceMean": 2, "Sub": 1, "Mul": 1, "Add": 1, "Sqrt": 1, "Div": 1}
CASES: dict[str, tuple[str, dict[str, int]]] = {
    "gelu": (f"{X} => {Y} {{ y = Gelu (x) }}", {"Mul": 2, "Div": 1, "Erf": 1, "Add": 1}),
    "gelu tanh": (f'{X} => {Y} {{ y = Gelu <approximate = "tanh"> (x) }}', {"Mul": 6, "Tanh": 1, "Add": 2}),
    "gelu half": (f"{HALF_X} => {HALF_Y} {{ y = Gelu (x) }}", {"Mul": 2, "Div": 1, "Erf": 1, "Add": 1}),
    "gelu tanh half": (
        f'{HALF_X} => {HALF_Y} {{ y = Gelu <approximate = "tanh"> (x) }}',
        {"Mul": 6, "Tanh": 1, "Add": 2},
    ),
    "layer norm": (
        f"{NORM_X} => {Y} {{ y = LayerNormalization <epsilon = 0.01> (x, w, b) }}",
        NORMALIZATION | {"Mul": 2, "Add": 2},
    ),
    "layer norm without bias": (
        f"{NORM_X} => {Y} {{ y = LayerNormalization <axis = 2> (x, w) }}",
        NORMALIZATION | {"Mul": 2},
    ),
    "layer norm over two axes": (
        f"{NORM_X.replace('[8]', '[3, 8]')} => {Y} {{ y = LayerNormalization <axis = 1> (x, w, b) }}",
        NORMALIZATION | {"Mul": 2, "Add": 2},
    ),
    "layer norm half": (
        f"{HALF_NORM_X} => {HALF_Y} {{ y = LayerNormalization (x, w, b) }}",
        NORMALIZATION | {"Mul": 2, "Add": 2, "Cast": 2},
    ),
    "mean": (f"{X} => (float[a, 3, 1] y) <int64[1] i = {{-1}}> {{ y = ReduceMean (x, i) }}", {"ReduceMean": 1}),
    "max of all": (f"{X} => (float y) {{ y = ReduceMax <keepdims = 0> (x) }}", {"ReduceMax": 1}),
    "sum": (f"{X} => (float[a, 3, 1] y) <int64[1] i = {{2}}> {{ y = ReduceSum (x, i) }}", {"ReduceSum": 1}),
    "sum over nothing": (
        f"{X} => {Y} {{ y = ReduceSum <noop_with_empty_axes = 1> (x) }}",
        {"Identity": 1},
    ),
    "split": (
        f"{X} => (float[a, 3, 3] y, float[a, 3, 3] z, float[a, 3, 2] u) {{ y, z, u = {THREE_PARTS} (x) }}",
        {"Split": 1},
    ),
    "split by sizes": (
        f"{X} => (float[a, 3, 3] y, float[a, 3, 5] z) <int64[2] i = {{3, 5}}> {{ y, z = Split <axis = 2> (x, i) }}",
        {"Split": 1},
    ),
    "shape": (f"{X} => (int64[3] y) {{ y = Shape (x) }}", {"Shape": 1}),
    "shape from": (f"{X} => (int64[2] y) {{ y = Shape <start = 1> (x) }}", {"Shape": 1, "Slice": 1}),
    "shape to": (f"{X} => (int64[2] y) {{ y = Shape <end = -1> (x) }}", {"Shape": 1, "Slice": 1}),
    "shape past the end": (f"{X} => (int64[1] y) {{ y = Shape <start = -1, end = 9> (x) }}", {"Shape": 1, "Slice": 1}),
    "reshape": (
        f"{X} => (float[a, 24] y) <int64[2] i = {{-1, 24}}> {{ y = Reshape <allowzero = 1> (x, i) }}",
        {"Reshape": 1},
    ),
    "reshape to a computed shape": (
        f"{X} => (float[k, l, m] y) {{ i = Shape (x) y = Reshape <allowzero = 1> (x, i) }}",
        {"Reshape": 1, "Shape": 1},
    ),
    "cast": (f"{X} => (float16[a, 3, 8] y) {{ y = Cast <to = 10, saturate = 1> (x) }}", {"Cast": 1}),
    "constant": (f"{X} => (float[2, l] y) {{ {CONSTANT_INTS} }}", {"Constant": 1, "Reshape": 1}),
    "quantize": (
        f"{X} => {Y} <float s = {{0.5}}, int8 z = {{3}}> {{ {ROUND.replace('(x', '<saturate = 1> (x')} }}",
        {"QuantizeLinear": 1, "DequantizeLinear": 1},
    ),
    "quantize half": (
        f"{HALF_X} => {HALF_Y} <float16 s = {{14336}}, int8 z = {{3}}> {{ {ROUND} }}",  # the bits of 0.5
        {"QuantizeLinear": 1, "DequantizeLinear": 1, "Cast": 2},
    ),
    "quantize per column": (
        f"{X} => {Y} {COLUMNS} {{ {ROUND.replace(' (', ' <axis = 2> (')} }}",
        {"QuantizeLinear": 1, "DequantizeLinear": 1},
    ),
    "pad": (
        f"{X} => (float[a, 3, l] y) <int64[6] i = {{0, 0, 1, 0, 0, 2}}> {{ y = Pad (x, i) }}",
        {"Pad": 1},
    ),
}


@pytest.mark.parametrize("values", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("case", CASES)
def test_a_rule_writes_the_expected_operators_and_computes_the_same(case: str, values: Any) -> None:
    text, expected = CASES[case]
    model = graph_of(text)
    rewritten = lowered(model)
    assert count(rewritten) == expected
    assert [v.name for v in rewritten.graph.output] == [v.name for v in model.graph.output]
    half = model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    dtype = np.float16 if half else np.float32
    feeds = {"x": values.astype(dtype)}
    for value in model.graph.input[1:]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.linspace(-2, 1, int(np.prod(sizes))).reshape(sizes).astype(dtype)
    for before, after in zip(run(model, **feeds), run(rewritten, **feeds), strict=True):
        scale = np.abs(before).max().astype(np.float64)
        assert np.isfinite(scale)
        np.testing.assert_allclose(after, before, rtol=0, atol=float(scale) * (2e-3 if half else 1e-6))


@pytest.mark.parametrize("case", CASES)
def test_lowering_twice_changes_nothing(case: str) -> None:
    once = lowered(graph_of(CASES[case][0]))
    assert lowered(once, OPSET).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_the_largest_half_precision_numbers_is_finite(approximate: str) -> None:
    model = lowered(graph_of(f'{HALF_X} => {HALF_Y} {{ y = Gelu <approximate = "{approximate}"> (x) }}'))
    x = np.full((1, 3, 8), 60000, np.float16)
    np.testing.assert_array_equal(run(model, x=x)[0], x)
    np.testing.assert_array_equal(run(model, x=-x)[0], 0)


def test_attributes_that_the_parser_ignores_or_misreads_are_gone() -> None:
    for text, _ in CASES.values():
        for node in lowered(graph_of(text)).graph.node:
            names = {attribute.name for attribute in node.attribute}
            assert not names & {"start", "end", "num_outputs", "noop_with_empty_axes", "saturate", "approximate"}
            assert node.op_type != "Constant" or names == {"value"}
            assert "allowzero" not in names or node.input[1] == "i"  # where the shape is computed


def test_unused_constants_are_dropped_and_equal_ones_are_shared() -> None:
    text = "<int64[1] i = {-1}> { m = ReduceMean (x, i) g = Gelu (x) h = Gelu (g) y = Add (h, m) }"
    names = [t.name for t in lowered(graph_of(f"{X} => {Y} {text}")).graph.initializer]
    assert len(names) == 3
    assert "i" not in names


def test_new_names_do_not_hide_old_ones() -> None:
    model = graph_of(f"{X} => {Y} <float[1] lowered_0 = {{2}}> {{ h = Mul (x, lowered_0) y = Gelu (h) }}")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = model.graph.value_info[0].name = "y/Mul"
    x = SMALL.astype(np.float32)
    np.testing.assert_allclose(run(lowered(model), x=x)[0], run(model, x=x)[0], atol=1e-6)


RELU = "t () => (float[a] z) { z = Relu (x) }"
REFUSED: dict[str, tuple[str, str]] = {
    "no importer": (f"{X} => {Y} {{ y = Mish (x) }}", "Mish .*does not support this operator"),
    "another domain": (f"{X} => {Y} {{ y = com.other.Op (x) }}", "Op .*does not support this operator"),
    "changed": (
        f'{X} => (float[a, 3, 16] y) <float[3] s = {{1, 1, 2}}> {{ y = Resize <mode = "linear"> (x, , s) }}',
        "Resize .*opset 17, in opset 19",
    ),
    "scatter": (
        f'{X} => {Y} <int64[1, 1] i = {{0}}, float[1, 3, 8] u> {{ y = ScatterND <reduction = "add"> (x, i, u) }}',
        "ScatterND .*reduction add",
    ),
    "computed axes": (
        "g (float[a, 3, 8] x, int64[1] i) => (float[k, l, m] y) { y = ReduceMean (x, i) }",
        "ReduceMean .*axes",
    ),
    "dynamic split": (
        "g (float[a, 3, 8] x) => (float[b, 3, 8] y, float[c, 3, 8] z) { y, z = Split <num_outputs = 2> (x) }",
        "Split .*axis 0.*2 parts",
    ),
    "mean": (
        f"{NORM_X} => (float[a, 3, 8] y, float[a, 3, 1] m) {{ y, m = LayerNormalization (x, w) }}",
        "LayerNormalization .*Mean",
    ),
    "padded axes": (
        f"{X} => (float[a, 3, l] y) <int64[2] i = {{1, 1}}, int64[1] j = {{2}}> {{ y = Pad (x, i, , j) }}",
        "Pad .*axes",
    ),
    "wrapped": (
        f'{X} => (float[a, 3, l] y) <int64[6] i = {{0, 0, 1, 0, 0, 1}}> {{ y = Pad <mode = "wrap"> (x, i) }}',
        "Pad .*wrap",
    ),
    "computed scale": (
        f"{HALF_X} => {HALF_Y} <int8 z = {{0}}> {{ s = ReduceMax <keepdims = 0> (x) {ROUND} }}",
        "QuantizeLinear .*scale s is computed",
    ),
    "text": (f'{X} => {Y} {{ s = Constant <value_string = "a"> () y = Relu (x) }}', "s .*STRING"),
    "bfloat16": (f"{X} => {Y} {{ h = Cast <to = 16> (x) y = Cast <to = 1> (h) }}", "h .*BFLOAT16.*tensorrt-8"),
    "branch": (
        f"g (float[a] x, bool c) => (float[a] y) {{ y = If <then_branch = {RELU}, else_branch = {RELU}> (c) }}",
        "If .*does not support this operator",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_operators_are_refused_and_the_graph_is_unchanged(case: str) -> None:
    text, said = REFUSED[case]
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 20, "com.other": 1]> {text}')
    model = onnx.shape_inference.infer_shapes(model)
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ExportError, match=said):
        lower(model.graph, 20)
    assert model.SerializeToString(deterministic=True) == before


def form(op_type: str, opset: int) -> Any:
    """Attributes with their defaults, and inputs."""
    schema = defs.get_schema(op_type, opset, "")
    attributes = {n: (a.type, a.required, a.default_value.SerializeToString()) for n, a in schema.attributes.items()}
    return attributes, [(i.name, i.option) for i in schema.inputs]


def test_operators_that_changed_after_opset_17_have_a_rule_or_are_refused() -> None:
    changed = {op for op in PARSED if form(op, OPSET) != form(op, 22)}
    assert changed - RULES.keys() == CHANGED
    assert not PARSED & DECOMPOSITIONS.keys()
    assert RULES.keys() <= PARSED
