"""Files with int8 layers: targets, checks of the graph, both dials, the budget input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from crafted_onnx import with_manifest
from exported_files import images, run, session
from onnx import TensorProto, helper, numpy_helper
from quantized_files import quantize_file
from tiny_models import tiny_vit

from acm_export.base.errors import ExportError, ModelFileError
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.onnx_file.inspection import check_graph, inspect
from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import ORT_TENSORRT_DOMAIN, TARGETS, gated_learners_nodes, rewrite_for
from acm_export.op import DOMAIN, NAME, QUANTIZED_NAME
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import open_runnable, runnable_copy

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = "vit.layers.1.mlp"
MLP = "vit.layers.0.mlp"


def retargeted(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """A copy for another target."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_manifest(copy, rewrite_for(copy, read_manifest(copy, "copy"), target))
    return copy


def logits(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    (output,) = session(model.SerializeToString()).run(["logits"], {"pixel_values": images(3).numpy()})
    return np.asarray(output)


def runnable(path: Path, *, lean: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """Logits and counts of a file for any target."""
    model = read_model(path)
    manifest = read_manifest(model, path)
    copy, _ = runnable_copy(model, manifest)
    opened, _ = open_runnable(copy, manifest, path.parent, lean=lean)
    return opened.run({"pixel_values": images(3).numpy()})


@pytest.mark.parametrize("name", ["m", "mixed", "dynamic"])
def test_a_portable_file_has_the_body_of_each_layer_and_follows_the_float_file(
    name: str, int8_files: Path, vit_files: Path
) -> None:
    model = onnx.load(int8_files / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    called = {(n.domain, n.op_type) for n in gated_learners_nodes(model)}
    assert called == {(f.domain, f.name) for f in model.functions}
    operators = {n.name: n.op_type.partition("_")[0] for n in gated_learners_nodes(model)}
    assert operators[MLP] == QUANTIZED_NAME
    assert operators[KEPT] == (NAME if name == "mixed" else QUANTIZED_NAME)
    expected = run(vit_files / "m.onnx", pixel_values=images(3))["logits"]
    assert 0 < np.abs(logits(model) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("target", ["tensorrt", "ort-tensorrt"])
@pytest.mark.parametrize("name", ["m", "mixed"])
def test_both_operators_move_to_a_target_and_back(name: str, target: str, int8_files: Path) -> None:
    model = onnx.load(int8_files / f"{name}.onnx")
    moved = retargeted(model, target)
    domain = ORT_TENSORRT_DOMAIN if target == "ort-tensorrt" else DOMAIN
    assert not moved.functions
    for node in gated_learners_nodes(moved):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert (node.domain, node.op_type in (NAME, QUANTIZED_NAME)) == (domain, True)
        assert (attributes["plugin_version"], attributes["plugin_namespace"]) == (b"1", b"")
    assert len(list(gated_learners_nodes(moved))) == 3
    assert {o.domain: o.version for o in moved.opset_import} == {"": 20, domain: 1}
    check_graph(moved, read_manifest(moved, "moved"), Path("moved"))
    assert retargeted(moved, "portable") == model


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_file_for_tensorrt_8_has_float32_scales_and_computes_the_same(dtype: str, tmp_path: Path) -> None:
    source = export(tiny_vit(), images(2), tmp_path / "m.onnx", verify=False, dtype=dtype, output_fields=("logits",))
    model = onnx.load(quantize_file(source.path, tmp_path / "q.onnx", {"pixel_values": images(8)}))
    lowered = retargeted(model, "tensorrt-8")
    onnx.checker.check_model(lowered)
    read_back = read_manifest(lowered, "lowered")
    check_graph(lowered, read_back, Path("lowered"))
    tensors = {t.name: t for t in lowered.graph.initializer}
    steps = [n for n in lowered.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(steps) == 3 * 7
    assert {tensors[n.input[1]].data_type for n in steps} == {TensorProto.FLOAT}
    twin = logits(retargeted(lowered, "portable"))
    expected = logits(model)
    assert twin.dtype == expected.dtype
    # in float16 the two round differently, so a value may move to the next integer
    np.testing.assert_allclose(twin, expected, atol=1e-5 if dtype == "fp32" else 0.02 * np.abs(expected).max())


@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"portable"}))
def test_dynamic_activations_are_refused_for_tensorrt(target: str, int8_files: Path) -> None:
    model = onnx.load(int8_files / "dynamic.onnx")
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ExportError, match=f"{MLP} scales its activations at run time") as refused:
        rewrite_for(model, read_manifest(model, "dynamic"), target)
    assert "acm-export quantize" in str(refused.value.hint)
    assert model.SerializeToString(deterministic=True) == before


def test_the_runnable_copy_takes_thresholds_and_gives_counts(int8_files: Path, tmp_path: Path) -> None:
    plain = runnable(int8_files / "mixed.onnx")
    assert [n for n in plain if n.startswith("counts/")] == [
        f"counts/{n}" for n in (MLP, f"{KEPT[:-3]}attention.q_proj", KEPT)
    ]
    lean = runnable(int8_files / "mixed.onnx", lean=True)
    onnx.save(retargeted(onnx.load(int8_files / "mixed.onnx"), "ort-tensorrt"), tmp_path / "t.onnx")
    elsewhere = runnable(tmp_path / "t.onnx")
    for name, values in plain.items():
        np.testing.assert_allclose(lean[name], values, atol=1e-5)
        np.testing.assert_array_equal(elsewhere[name], values)


def edit_node(change: Callable[[onnx.NodeProto], object]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: (change(next(n for n in gated_learners_nodes(model) if n.name == MLP)), None)[1]


def edit_tensor(name: str, values: np.ndarray[Any, Any]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return apply


def without_tensor(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == name))


def make_dynamic(node: onnx.NodeProto) -> None:
    next(a for a in node.attribute if a.name == "dynamic").i = 1


WRONG: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "operator": (
        edit_node(lambda n: setattr(n, "op_type", NAME)),
        "QuantizedGatedLearners_n4_min0_gelu_static with 12 inputs",
    ),
    "dynamic": (edit_node(make_dynamic), "'dynamic': 0"),
    "input": (edit_node(lambda n: n.input.pop()), "with 12 inputs"),
    "type": (edit_tensor(f"{MLP}.int8.w1", np.zeros((12, 24), np.float32)), r"float \[12, 24\]; w1 .* int8 \[12, 24\]"),
    "shape": (edit_tensor(f"{MLP}.int8.s1", np.zeros(23, np.float32)), r"s1 .* must be float \[24\]"),
    "missing": (without_tensor(f"{MLP}.int8.x_mult"), "x_mult of layer vit.layers.0.mlp.* is missing"),
    "linear": (
        edit_tensor("vit.layers.0.attention.q_proj.weight.T", np.zeros((12, 12), np.float32)),
        r"q_proj.weight.T \(linear layer\) is not int8",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_graph_that_contradicts_the_manifest_is_refused(case: str, int8_files: Path, tmp_path: Path) -> None:
    change, message = WRONG[case]
    model = onnx.load(int8_files / "m.onnx")
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=message):
        inspect(tmp_path / "m.onnx")


def says_float(content: dict[str, Any]) -> None:
    content["layers"][0]["activations"] = None


def says_nothing(content: dict[str, Any]) -> None:
    content["quantization"] = None


def says_dynamic(content: dict[str, Any]) -> None:
    content["quantization"]["activations"] = "dynamic"


def says_embedding(content: dict[str, Any]) -> None:
    content["quantization"]["embeddings"] = ["vit.embeddings.position_embeddings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (says_float, "GatedLearners_n4_min0_gelu with 7 inputs"),
        (says_nothing, "says no quantisation"),
        (says_dynamic, "has static int8 activations, but the manifest says dynamic"),
        (says_embedding, r"position_embeddings \(embedding table\) is not int8"),
    ],
)
def test_a_manifest_that_contradicts_the_graph_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, int8_files: Path, tmp_path: Path
) -> None:
    path = with_manifest(int8_files / "m.onnx", tmp_path / "m.onnx", change)
    with pytest.raises(ModelFileError, match=message):
        inspect(path)


def test_inspect_shows_what_is_int8(int8_files: Path, vit_files: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(int8_files / "mixed.onnx")]).output
    assert "2 of 3 ACM layers, 7 dense linear layers; 8-bit weights, static scales from 8 samples" in shown
    assert f"kept on request: {KEPT}" in shown
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert "int8 static" in rows[MLP]
    assert "fp32" in rows[KEPT]
    content = json.loads(CliRunner().invoke(main, ["inspect", str(int8_files / "m.onnx"), "--json"]).output)
    assert content["manifest"]["quantization"]["weight_bits"] == 8
    assert [layer["activations"] for layer in content["manifest"]["layers"]] == ["static"] * 3
    weights = 7 * 12 * 12 + 2 * (2 * 12 * 4 * 6) + 2 * 12 * 4 * 3
    zeros = 7 * 12 + 7 + 3 * 4
    assert sum(content["weight_bytes"].get(kind, 0) for kind in ("int8", "uint8")) == weights + zeros
    float_file = CliRunner().invoke(main, ["inspect", str(vit_files / "m.onnx")]).output
    assert "int8" not in float_file


def test_inspect_shows_a_dense_int8_file(int8_files: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(int8_files / "dense.onnx")]).output
    assert "0 of 0 ACM layers, 8 dense linear layers" not in shown
    assert "dense linear layers; 8-bit weights" in shown


def test_both_dials_turn_an_int8_file(int8_files: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(int8_files / "m.onnx", tmp_path / "m.onnx"))
    weights = {t.name: t for t in onnx.load(path).graph.initializer if not t.name.endswith(".thresholds")}
    set_budget(path, threshold=float("-inf"))
    assert all((values == 4).all() for name, values in runnable(path).items() if name.startswith("counts/"))
    set_budget(path, threshold=0.0, max_learners=2)
    assert max(values.max() for name, values in runnable(path).items() if name.startswith("counts/")) == 2
    after = onnx.load(path)
    assert all(t == weights[t.name] for t in after.graph.initializer if t.name in weights)
    set_budget(path, trained=True)
    assert inspect(path).manifest == inspect(int8_files / "m.onnx").manifest


def test_one_token_and_none_run(int8_files: Path) -> None:
    opened = CpuSession(read_model(int8_files / "m.onnx"), int8_files)
    for batch in (0, 1):
        assert opened.run({"pixel_values": images(3).numpy()[:batch]})["logits"].shape == (batch, 5)
