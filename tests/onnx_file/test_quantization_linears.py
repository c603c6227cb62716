"""Which linear layers of an exported graph can run in int8."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_families import acm_model, dense_model, interface
from torch import nn

from acm_export.exporter import export
from acm_export.modules import acm_layers
from acm_export.onnx_file.quantization import embeddings as embeddings_module
from acm_export.onnx_file.quantization import linears as linears_module
from acm_export.onnx_file.quantization.embeddings import find_embeddings
from acm_export.onnx_file.quantization.linears import find_linears, sites
from acm_export.onnx_file.quantization.view import GraphView
from acm_export.surgery.examples import example_inputs

HEADS = ("classifier", "lm_head", "qa_outputs", "pooler.dense")


def exported(model: nn.Module, path: Path) -> onnx.ModelProto:
    how = interface(model)
    axes = how.dynamic_axes()
    export(model, example_inputs(how), path, verify=False, dynamic_shapes=axes, output_fields=how.outputs)
    return onnx.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("acm", [False, True], ids=["dense", "acm"])
@pytest.mark.parametrize("name", ["vit", "deit", "bert", "bert tokens", "bert answers", "wav2vec2 ctc", "whisper"])
def test_every_linear_layer_of_a_family_but_gates_and_heads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, acm: bool
) -> None:
    monkeypatch.setattr(linears_module, "MIN_WEIGHTS", 0)
    model = acm_model(name, "ffn") if acm else dense_model(name)
    gates = {f"{layer}.gate" for layer, _ in acm_layers(model)}
    expected = {
        place
        for place, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not place.endswith(HEADS)
        and not any(place.startswith(gate) for gate in gates)
    }

    graph = exported(model, tmp_path / "m.onnx")
    found, kept = find_linears(graph, GraphView(graph, tmp_path))

    assert {linear.module for linear in found} == expected
    assert all(kept_one.name.removesuffix(".T").removesuffix(".weight").endswith(HEADS) for kept_one in kept)
    modules = dict(model.named_modules())
    for linear in found:
        module = modules[linear.module]
        assert isinstance(module, nn.Linear)
        assert (linear.in_features, linear.out_features) == (module.in_features, module.out_features)
        assert (linear.bias is not None) == (module.bias is not None)


@pytest.mark.slow
def test_embeddings_of_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings_module, "MIN_ROWS", 3)

    graph = exported(dense_model("bert"), tmp_path / "m.onnx")

    tables = find_embeddings(GraphView(graph, tmp_path))
    assert tables == ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight")


def model_of(text: str, outputs: list[str], **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model from lines such as ``y = MatMul(x, w)``; inputs start with x and have the shape [2, 5, 64]."""
    nodes, values, types = [], [], dict.fromkeys(outputs, TensorProto.FLOAT)
    for line in text.strip().splitlines():
        output, _, call = line.strip().partition(" = ")
        op_type, _, arguments = call.partition("(")
        nodes.append(helper.make_node(op_type, arguments.rstrip(")").split(", "), [output]))
        values.append(output)
    inputs = sorted({name for node in nodes for name in node.input if name.startswith("x")})
    shape = [2, 5, 64]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in types],
        [numpy_helper.from_array(_random(*size), name) for name, size in weights.items()],
        value_info=[helper.make_tensor_value_info(v, TensorProto.FLOAT, shape) for v in values if v not in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _random(*shape: int) -> object:
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def reasons(model: onnx.ModelProto) -> dict[str, str]:
    _, kept = find_linears(model, GraphView(model, Path()))
    return {item.name: item.reason for item in kept}


def test_a_head_stays_in_float() -> None:
    model = model_of("a = MatMul(x, w)\nb = Add(a, bias)\ny = Softmax(b)", ["y"], w=(64, 64), bias=(64,))

    assert reasons(model) == {"w": "it is a head"}


@pytest.mark.parametrize(
    "after",
    ["b = Add(a, x)\ny = Relu(b)", "b = MatMul(a, v)\ny = Relu(b)", "b = LayerNormalization(a, g)\ny = Relu(b)"],
)
def test_a_layer_before_a_residual_a_norm_or_a_layer_is_no_head(after: str) -> None:
    model = model_of(f"a = MatMul(x, w)\n{after}", ["y"], w=(64, 64), v=(64, 64), g=(64,))

    found, _ = find_linears(model, GraphView(model, Path()))
    assert "w" in {linear.weight for linear in found}


def test_reasons_to_keep_a_layer() -> None:
    model = model_of(
        "a = MatMul(x, small)\nb = MatMul(x, tied)\nc = Mul(tied, tied)\nd = MatMul(x, w)\n"
        "e = Add(a, b)\nf = Add(e, d)\nh = Add(f, c)\ny = Relu(h)",
        ["y"],
        small=(64, 63),
        tied=(64, 64),
        w=(64, 64),
    )

    assert reasons(model) == {"small": "it has only 4032 weights", "tied": "other nodes read its weight too"}


def test_a_layer_whose_input_has_2_dimensions_stays_in_float() -> None:
    model = model_of("a = MatMul(x, w)\nb = Add(a, a)\ny = Relu(b)", ["y"], w=(64, 64))
    del model.graph.input[0].type.tensor_type.shape.dim[0]

    assert "2 dimensions" in reasons(model)["w"]


def test_layers_that_read_one_tensor_share_a_site_and_its_norm() -> None:
    text = "n = LayerNormalization(x, g, h)\na = MatMul(n, w)\nb = MatMul(n, v)\nc = Add(a, b)\ny = Relu(c)"
    weights = {"w": (64, 64), "v": (64, 64), "g": (64,), "h": (64,)}
    model = model_of(text, ["y"], **weights)
    view = GraphView(model, Path())
    found, _ = find_linears(model, view)

    (site,) = sites(found, view)
    assert (site.x, [linear.weight for linear in site.linears]) == ("n", ["w", "v"])
    assert site.norm is not None
    assert (site.norm.weight, site.norm.bias) == ("g", "h")
    (alone,) = sites(found[:1], view)
    assert alone.norm is None  # v reads the norm too, and stays in float
    residual = model_of(text.replace("Add(a, b)", "Add(a, n)"), ["y"], **weights)
    view = GraphView(residual, Path())
    assert all(site.norm is None for site in sites(find_linears(residual, view)[0], view))
