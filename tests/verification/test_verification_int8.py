"""Verification of int8 files: the cosine rule, and the integer steps of each layer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from quantized_files import int8_inputs, quantize_file
from quantized_op import random_quantized_inputs
from torch import nn

from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting, Source
from acm_export.onnx_file.quantization_record import Quantization
from acm_export.op import DOMAIN, QuantizedSignature
from acm_export.op.quantized_body import quantized_body
from acm_export.report.verification import verification_table
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.verification import integers
from acm_export.verification.compare import cosine_similarity, verify_model
from acm_export.verification.integers import IntegerCheck, LayerIntegers
from acm_export.verification.report import INT8_COSINE, LayerRouting, SettingResult, VerificationReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INF, NAN = float("inf"), float("nan")
EXPORTED: dict[str, bytes] = {}
"""The float file of :class:`Int8Model` for each dtype, exported once."""


class Int8Model:
    """A module of two ACM layers, the first at the input and the last at the output, and its int8 file."""

    def __init__(self, folder: Path, *, dtype: str = "fp32", **options: Any) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(ACMLayer(ACMSpec(6, 3, 20)), nn.Linear(6, 6), ACMLayer(ACMSpec(6, 3, 20, 1)))
        self.module.eval().requires_grad_(False)
        for _, layer in acm_layers(self.module):
            layer.gate.linears[0].weight.normal_()
        self.inputs = {"input": torch.randn(3, 16, 6)}
        source = folder / "float.onnx"
        if dtype not in EXPORTED:
            export(self.module, self.inputs, source, dtype=dtype, verify=False)
            EXPORTED[dtype] = source.read_bytes()
        source.write_bytes(EXPORTED[dtype])
        self.path = quantize_file(source, folder / "m.onnx", self.inputs, **options)

    def verify(self, change: Callable[[onnx.ModelProto], None] | None = None, **options: Any) -> VerificationReport:
        if change is not None:
            proto = onnx.load(self.path)
            change(proto)
            onnx.save(proto, self.path)
        return verify_model(self.path, Exportable(self.module, ["input"], torch.float32), self.inputs, **options)


@pytest.mark.parametrize(
    "options", [{}, {"dynamic": True}, {"keep": ["0"]}, {"linears": False}, {"dtype": "fp16"}], ids=str
)
def test_an_int8_file_passes_and_its_integers_are_exact(options: dict[str, Any], tmp_path: Path) -> None:
    report = Int8Model(tmp_path, **options).verify()
    assert report.passed, report.failure
    assert report.hint is None
    assert report.int8 == ("dynamic" if "dynamic" in options else "static")
    assert len(report.settings) == 3
    for setting in report.settings:
        assert INT8_COSINE < setting.cosine < 1
        assert setting.relative > 1e-4  # above the tolerance of a float32 file
        assert [one.name for one in setting.integers] == (["2"] if "keep" in options else ["0", "2"])
        assert all((one.tokens, one.wrong_inputs, one.failure) == (48, 0, None) for one in setting.integers)
    content = report.to_json()
    assert content["int8"] == report.int8
    assert content["settings"][0]["integers"][-1]["failure"] is None
    assert (content["settings"][0]["tolerance"], content["settings"][0]["min_cosine"]) == (None, INT8_COSINE)
    table = verification_table(report)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["integers"][0] == "exact"
    assert "tolerance" not in columns


def edit_bodies(name: str, find: str, replace: str) -> Callable[[onnx.ModelProto], None]:
    """Put another operator where a body computes a value."""

    def apply(proto: onnx.ModelProto) -> None:
        for function in proto.functions:
            edit_body(function, name, find, replace)

    return apply


def edit_body(function: onnx.FunctionProto, name: str, find: str, replace: str) -> None:
    (node,) = (node for node in function.node if node.output[0] == name)
    assert node.op_type == find
    node.op_type = replace
    del node.attribute[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit_bodies("x_scaled", "Mul", "Add"), "layer 0 has an output that is off by"),
        (edit_bodies("active_3", "Gelu", "Relu"), "layer 0 has an output that is off by"),
        (edit_bodies("both_1", "Add", "Sub"), "layer . has an output that is off by"),
        (edit_bodies("runs", "Greater", "Less"), "layer 0 runs .* with a count that contradicts"),
    ],
)
def test_a_changed_body_is_caught(change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path) -> None:
    report = Int8Model(tmp_path).verify(change)
    assert not report.passed
    assert re.search(said, str(report.failure)), report.failure
    assert "VNNI" in str(report.hint)


@pytest.mark.parametrize(
    ("name", "find", "replace", "said"),
    [
        ("x_scaled", "Mul", "Add", "rounds .* values of 48 tokens to another integer"),
        ("active_1", "Gelu", "Relu", "hidden value that is .* at most 1 is allowed"),
        ("only_1", "Add", "Sub", "off by .* of its largest term"),
        ("runs", "Greater", "Equal", "count that contradicts"),
    ],
)
def test_a_wrong_kernel_is_caught(
    name: str, find: str, replace: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(signature: QuantizedSignature, opset: int, *, taps: bool) -> onnx.FunctionProto:
        body = quantized_body(signature, opset, taps=taps)
        edit_body(body, name, find, replace)
        return body

    monkeypatch.setattr(integers, "quantized_body", wrong)
    report = Int8Model(tmp_path).verify()
    assert re.search(said, str(report.failure)), report.failure


def test_lost_weights_fail_the_cosine_rule_and_the_hint_names_the_options(tmp_path: Path) -> None:
    def lose(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == "2.int8.w2")
        values = numpy_helper.to_array(tensor).copy()
        values[: len(values) // 2] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    model = Int8Model(tmp_path)
    report = model.verify(lose)
    assert "cosine similarity" in str(report.failure)
    assert all(one.failure is None for setting in report.settings for one in setting.integers)
    for option in ("--data", "--keep", "--migration", "--atol"):
        assert option in str(report.hint)
    assert model.verify(atol=INF).passed
    assert "off by" in str(model.verify(atol=1e-6).failure)


def layer_model(
    signature: QuantizedSignature, leading: tuple[int, ...], seed: int, dtype: Any = np.float32, bias: float = 0
) -> tuple[onnx.ModelProto, Manifest, dict[str, Any]]:
    """One int8 layer with random weights as a runnable copy, its manifest, and feeds with awkward values.

    ``bias`` is added to the arguments of the activation.
    """
    rng = np.random.default_rng(seed)
    model_dim, hidden, learners = 7, 5, signature.num_learners
    entry = LayerEntry(
        "l", model_dim, learners, hidden, signature.min_learners, signature.activation, 1, 1, 1,
        "dynamic" if signature.dynamic else "static", signature.glu,
    )  # fmt: skip
    shapes = ((model_dim, learners * hidden), (learners * hidden,), (learners * hidden, model_dim), (learners + 1, 7))
    floats = [rng.standard_normal(shape) for shape in shapes]
    floats[1] += bias
    x = rng.standard_normal((*leading, model_dim)).astype(dtype)
    logits = rng.standard_normal((*leading, signature.num_choices)).astype(np.float32)
    sample = rng.standard_normal((50, model_dim))
    constants = int8_inputs(entry, sample, floats, dynamic=bool(signature.dynamic))
    if signature.glu:
        drawn = random_quantized_inputs(rng, leading, model_dim, hidden, signature)
        constants = {name: drawn[name] for name in signature.inputs[3:]}
    if x.size > 14:
        x.reshape(-1, model_dim)[0, 2] = NAN
        x.reshape(-1, model_dim)[1] *= 50  # clamped
        logits.reshape(-1, signature.num_choices)[1, 0] = NAN
    feeds = {"x": x, "gate_logits": logits}
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in feeds.values()]
    name = signature.function_name
    node = helper.make_node(name, signature.inputs, ["y", "counts/l"], "l", domain=DOMAIN, **signature.attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            *(helper.make_tensor_value_info(n, k, v.shape) for (n, v), k in zip(feeds.items(), kinds, strict=True)),
            helper.make_tensor_value_info("thresholds", TensorProto.FLOAT, [learners]),
        ],
        [helper.make_tensor_value_info("counts/l", TensorProto.INT32, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, ir_version=10, functions=[quantized_body(signature, 20)], opset_imports=opsets)
    quantization = Quantization("dynamic" if signature.dynamic else "static", 8, (), (), (), None, None, 0)
    manifest = Manifest(
        Source("s"), "fp16" if dtype == np.float16 else "fp32", "portable", 20, (entry,), 0, {}, Setting(), "p",
        quantization=quantization,
    )  # fmt: skip
    return model, manifest, feeds


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("leading", [(0,), (1,), (2,), (3, 4), (2, 0), (4, 300)], ids=str)
@pytest.mark.parametrize(
    "signature", [(4, 0, "gelu"), (3, 1, "silu"), (2, 2, "relu"), (1, 0, "identity"), (1, 1, "gelu_tanh")], ids=str
)
@pytest.mark.parametrize("glu", [False, True])
def test_the_portable_body_is_exact_for_every_signature(
    signature: tuple[int, int, str], leading: tuple[int, ...], dynamic: int, glu: bool, tmp_path: Path
) -> None:
    dtype = np.float16 if signature[0] == 3 else np.float32
    made = QuantizedSignature(*signature, dynamic, glu=glu)
    model, manifest, feeds = layer_model(made, leading, len(leading), dtype)
    check = IntegerCheck(model, manifest, tmp_path)
    opened = CpuSession(model, tmp_path)
    for tau in (0.0, -INF, INF, NAN):
        thresholds = np.full(signature[0], tau, np.float32)
        ran = opened.run(feeds | {"thresholds": thresholds})
        (found,) = check.check(feeds | ran, {"l": thresholds})
        assert found.failure is None
        assert found.tokens == (np.prod(leading) if leading != (4, 300) else 400)  # every third


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("name", ["v1", "t1", "c1"])
def test_a_body_that_ignores_the_multiplied_branch_is_found(name: str, dynamic: int, tmp_path: Path) -> None:
    """The file multiplies by other values than those that the definition gives for its weights."""
    model, manifest, feeds = layer_model(QuantizedSignature(3, 1, "silu", dynamic, glu=True), (40,), 3)
    check = IntegerCheck(model, manifest, tmp_path)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = next(t for t in other.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values + 1 if name == "c1" else np.negative(values), name))
    thresholds = np.full(3, -INF, np.float32)
    ran = CpuSession(other, tmp_path).run(feeds | {"thresholds": thresholds})
    (found,) = check.check(feeds | ran, {"l": thresholds})
    assert "has an output that is off by" in str(found.failure)


def test_other_thresholds_contradict_the_counts(tmp_path: Path) -> None:
    model, manifest, feeds = layer_model(QuantizedSignature(4, 0, "gelu"), (3, 4), 0)
    check = IntegerCheck(model, manifest, tmp_path)
    ran = CpuSession(model, tmp_path).run(feeds | {"thresholds": np.full(4, -INF, np.float32)})
    (found,) = check.check(feeds | ran, {"l": np.full(4, INF, np.float32)})
    assert found.wrong_counts == 11  # one token has a NaN logit


@pytest.mark.parametrize(
    ("rows", "others", "expected"),
    [
        ([[3.0, 4.0]], [[6.0, 8.0]], 1.0),
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], 0.5),
        ([[1.0, 0.0]], [[-2.0, 0.0]], -1.0),
        ([[0.0, 0.0]], [[0.0, 0.0]], 1.0),
        ([[0.0, 0.0]], [[1.0, 0.0]], 0.0),
        ([[NAN, 0.0]], [[1.0, 0.0]], NAN),
        ([[INF, 0.0]], [[1.0, 0.0]], NAN),
    ],
)
def test_cosine_similarity_is_the_mean_over_samples(rows: Any, others: Any, expected: float) -> None:
    found = cosine_similarity(np.array(rows, np.float32), np.array(others, np.float32))
    assert found == pytest.approx(expected, nan_ok=True)


def scripted(
    cosine: float = 1.0, *integers: LayerIntegers, layers: tuple[LayerRouting, ...] = ()
) -> VerificationReport:
    setting = SettingResult("τ = 0", 0.5, 0.5, 0.1, 1.0, layers, cosine, integers)
    return VerificationReport((setting,), "fp32", None, "scripted", (), "static")


@pytest.mark.parametrize("cosine", [INT8_COSINE - 1e-6, 0.0, NAN])
def test_a_cosine_similarity_below_the_limit_fails(cosine: float) -> None:
    assert scripted(INT8_COSINE).passed
    assert not scripted(cosine).passed


def test_a_hidden_value_may_move_by_one_and_nothing_else_may() -> None:
    assert scripted(1.0, LayerIntegers("l", 9, 0, 0, 5, 1, 1e-5)).passed
    for wrong in (
        LayerIntegers("l", 9, 1),
        LayerIntegers("l", 9, 0, 1),
        LayerIntegers("l", 9, 0, 0, 5, 2),
        LayerIntegers("l", 9, 0, 0, 0, 0, 1.1e-5),
        LayerIntegers("l", 9, 0, 0, 0, 0, NAN),
    ):
        report = scripted(1.0, LayerIntegers("k", 9, 0), wrong)
        assert "at τ = 0 layer l " in str(report.failure)
        assert list(verification_table(report).columns[5].cells) == ["1 of 2 layers wrong"]


def test_routing_may_differ_by_the_spread_of_the_margins() -> None:
    assert scripted(layers=(LayerRouting("l", 9, 1, 1.9, 2.0, 0.5),)).passed
    assert "routes 1 of 9" in str(scripted(layers=(LayerRouting("l", 9, 1, 2.1, 2.0, 0.5),)).failure)


@pytest.mark.parametrize("bias", [-4.0, -6.0, -8.0, -12.0])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_hidden_values_as_small_as_the_error_of_float32_do_not_fail(
    activation: str, bias: float, tmp_path: Path
) -> None:
    signature = QuantizedSignature(3, 1, activation, 1)
    model, manifest, feeds = layer_model(signature, (400,), 5, bias=bias)
    thresholds = np.full(3, -INF, np.float32)
    check = IntegerCheck(model, manifest, tmp_path)
    ran = CpuSession(model, tmp_path).run(feeds | {"thresholds": thresholds})
    (found,) = check.check(feeds | ran, {"l": thresholds})
    assert found.failure is None
