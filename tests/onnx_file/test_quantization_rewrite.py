"""The nodes that replace a linear layer or an embedding, against the formulas, and the kernels that run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from acm_export.onnx_file.quantization.dense import QuantizedSite, QuantizedWeight, rewrite_site
from acm_export.onnx_file.quantization.edit import GraphEdit
from acm_export.onnx_file.quantization.embeddings import QuantizedTable, find_embeddings, rewrite_embedding
from acm_export.onnx_file.quantization.linears import find_linears, sites
from acm_export.onnx_file.quantization.view import GraphView
from acm_export.onnx_file.zero_points import fit_zero_points

D, OUT = 64, 96
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, D)).astype(np.float32)
X[..., 5] *= 30
MIGRATION = np.where(np.arange(D) == 5, 1 / 20, 1).astype(np.float32)


def float_model(*, norm: bool, fp16: bool, opset: int) -> onnx.ModelProto:
    """Two layers that read x, or the norm of x; w has a bias."""
    rng = np.random.default_rng(1)
    element, dtype = (TensorProto.FLOAT16, np.float16) if fp16 else (TensorProto.FLOAT, np.float32)
    weights = {
        "w": rng.standard_normal((D, OUT)) / 8,
        "v": rng.standard_normal((D, OUT)) / 8,
        "b": rng.standard_normal(OUT),
        "g": 1 + rng.random(D),
        "h": rng.standard_normal(D),
    }
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "h"], ["n"], epsilon=1e-5)] if norm else []
    x = "n" if norm else "x"
    nodes += [
        helper.make_node("MatMul", [x, "w"], ["p"], name="node_p"),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("MatMul", [x, "v"], ["r"], name="node_r"),
        helper.make_node("Add", ["q", "r"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    info = [helper.make_tensor_value_info(name, element, ["batch", "t", OUT]) for name in ("p", "q", "r")]
    info += [helper.make_tensor_value_info("n", element, ["batch", "t", D])] if norm else []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, ["batch", "t", D])],
        [helper.make_tensor_value_info("y", element, ["batch", "t", OUT])],
        [numpy_helper.from_array(v.astype(dtype), name) for name, v in weights.items() if name in used],
        value_info=info,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def rewritten(
    model: onnx.ModelProto, scales: dict[str, Any], opset: int, target: str | None = None
) -> tuple[onnx.ModelProto, QuantizedSite]:
    view = GraphView(model, Path())
    (site,) = sites(find_linears(model, view)[0], view)
    weights = {}
    for name in ("w", "v"):
        moved = view.read(name) / (1 if scales["migration"] is None else scales["migration"][:, None])
        step = (np.abs(moved).max(0) / 127).astype(np.float32)
        weights[name] = QuantizedWeight(np.rint(moved / step).astype(np.int8), step)
    quantized = QuantizedSite(**scales, weights=weights)
    edit = GraphEdit(model)
    rewrite_site(site, quantized, view, edit, opset)
    edit.apply()
    onnx.checker.check_model(model, full_check=True)
    if target is not None:
        fit_zero_points(model, target)
        onnx.checker.check_model(model, full_check=True)
    return model, quantized


def expected(x: np.ndarray, site: QuantizedSite, bias: np.ndarray) -> np.ndarray:
    """y of the model, step by step in float64."""
    values = x.astype(np.float64) * (1 if site.migration is None else site.migration)
    if site.scale is None:
        step = np.abs(values).max(-1, keepdims=True) / 127
    else:
        step = np.full((*x.shape[:-1], 1), site.scale)
    q = np.clip(np.rint(values / step), -128, 127) * step
    return sum(q @ (w.values * w.scale.astype(np.float64)) for w in site.weights.values()) + bias


def run(model: onnx.ModelProto, x: np.ndarray, **options: Any) -> np.ndarray:
    return np.asarray(opened(model, **options).run(["y"], {"x": x})[0])


def opened(model: onnx.ModelProto, *, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "profile")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


SCALES = {
    "static": {"scale": 0.03, "migration": None},
    "static, migrated": {"scale": 0.03, "migration": MIGRATION},
    "dynamic": {"scale": None, "migration": None},
    "dynamic, migrated": {"scale": None, "migration": MIGRATION},
}


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_a_site_computes_the_formula(scales: dict[str, Any], opset: int, *, fp16: bool) -> None:
    model, site = rewritten(float_model(norm=False, fp16=fp16, opset=opset), scales, opset)
    bias = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "b"))
    x = X.astype(np.float16 if fp16 else np.float32)

    y = run(model, x)

    # A value that lies next to a rounding boundary may move by one step.
    assert y == pytest.approx(expected(x, site, bias), abs=0.15 if fp16 else 0.02)
    assert {n.name for n in model.graph.node if n.op_type == "MatMul"} == {"node_p", "node_r"}


def test_a_norm_takes_over_the_migration() -> None:
    scales = SCALES["static, migrated"]
    model, site = rewritten(float_model(norm=True, fp16=False, opset=20), scales, 20)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    assert not [n for n in model.graph.node if n.op_type == "Mul"]
    centred = X - X.mean(-1, keepdims=True)
    normal = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
    migrated = normal * weights["g"] + weights["h"]
    assert run(model, X) == pytest.approx(
        expected(migrated, QuantizedSite(site.scale, None, site.weights), weights["b"]), abs=0.02
    )


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_onnx_runtime_fuses_each_product_into_one_int8_kernel(scales: dict[str, Any], tmp_path: Path) -> None:
    model, _ = rewritten(float_model(norm=False, fp16=False, opset=20), scales, 20, "portable")
    session = opened(model, profile=tmp_path)

    session.run(None, {"x": X})

    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [
        event["args"]["op_name"] for event in events if event.get("cat") == "Node" and "op_name" in event["args"]
    ]
    assert kernels.count("MatMulIntegerToFloat") == 2
    assert not {"MatMul", "Gemm", "FusedMatMul", "DequantizeLinear", "MatMulInteger"} & set(kernels)


def test_the_zero_points_of_a_target_do_not_change_the_result() -> None:
    scales = SCALES["static, migrated"]
    results = []
    for target in ("portable", "tensorrt"):
        model, _ = rewritten(float_model(norm=False, fp16=False, opset=20), scales, 20, target)
        zeros = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith(".zero")}
        element = TensorProto.UINT8 if target == "portable" else TensorProto.INT8
        assert zeros == {"x.zero": element, "w.zero": TensorProto.INT8, "v.zero": TensorProto.INT8}
        results.append(run(model, X))

    assert results[0] == pytest.approx(results[1], abs=1e-4)


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_few_tokens(scales: dict[str, Any], tokens: int) -> None:
    model, site = rewritten(float_model(norm=False, fp16=False, opset=20), scales, 20)
    bias = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "b"))

    y = run(model, X[:, :tokens])

    assert y.shape == (2, tokens, OUT)
    assert y == pytest.approx(expected(X[:, :tokens], site, bias), abs=0.02)


def test_with_dynamic_scales_a_token_of_zeros_gives_the_bias_and_infinity_stays_in_its_token() -> None:
    model, _ = rewritten(float_model(norm=False, fp16=False, opset=20), SCALES["dynamic"], 20)
    bias = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "b"))
    x = X.copy()
    x[0, 0] = 0
    x[0, 1, 3] = np.inf

    y = run(model, x)

    assert (y[0, 0] == bias).all()
    others = np.ones((2, 7), bool)
    others[0, :2] = False
    assert (y[others] == run(model, X)[others]).all()


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
def test_embeddings_are_rows_of_int8_with_a_scale_each(*, fp16: bool) -> None:
    element = TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT
    table = RNG.standard_normal((80, 16)).astype(np.float16 if fp16 else np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["e"]), helper.make_node("Relu", ["e"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "t"])],
        [helper.make_tensor_value_info("y", element, ["batch", "t", 16])],
        [numpy_helper.from_array(table, "table")],
        value_info=[helper.make_tensor_value_info("e", element, ["batch", "t", 16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    view = GraphView(model, Path())
    assert find_embeddings(view) == ("table",)
    scale = (np.abs(table).max(1, keepdims=True) / 127).astype(np.float32)
    rows = np.rint(table / scale).astype(np.int8)
    edit = GraphEdit(model)

    rewrite_embedding("table", QuantizedTable(rows, scale), view, edit)
    edit.apply()

    onnx.checker.check_model(model, full_check=True)
    ids = np.array([[0, 79, 3], [5, 5, 1]])
    y = run(model, ids)
    assert y.dtype == table.dtype
    assert y == pytest.approx(np.maximum(rows[ids] * scale[ids], 0), abs=2e-3 if fp16 else 1e-6)
