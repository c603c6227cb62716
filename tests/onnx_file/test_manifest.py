"""The manifest, thresholds and external data of a file are checked before use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from crafted_onnx import external, point_at, with_manifest, with_tensor
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from acm_export.base.errors import ModelFileError
from acm_export.cli import main
from acm_export.demo.digits import ACM
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import data_files, read_model
from acm_export.report.inspection import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MLP = "vit.layers.0.mlp"
W1_BYTES = 4 * 48 * 4 * 24


@pytest.fixture(scope="module")
def exported(digits_file: Path) -> Path:
    return digits_file


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets one field of a manifest."""

    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("layers", 2, "learner_flops", value="a"), 'layers[2].learner_flops is "a"; it must be an integer'),
        (put("layers", 0, "learner_flops", value=0), "layers[0].learner_flops is 0; it must be an integer >= 1"),
        (put("layers", 0, "tokens", value=True), "layers[0].tokens is true; it must be an integer"),
        (put("layers", 0, "tokens", value=-1), "layers[0].tokens is -1; it must be an integer"),
        (put("layers", 0, "tokens", value=1.5), "layers[0].tokens is 1.5; it must be an integer"),
        (put("layers", 0, "name", value=None), "layers[0].name is null; it must be text"),
        (put("layers", 0, "num_learners", value=65), "num_learners is 65; it must be in 1..64"),
        (put("layers", 0, "activation", value="tanh"), "activation is 'tanh'; it must be one of gelu"),
        (put("layers", 0, value=5), "layers[0] is 5; it must be an object"),
        (put("layers", value={}), "layers is {}; it must be a list"),
        (put("example_inputs", value=5), "example_inputs is 5; it must be an object"),
        (put("example_inputs", "pixel_values", value=3), "example_inputs.pixel_values is 3; it must be a list"),
        (put("example_inputs", "pixel_values", value=["a"]), 'example_inputs.pixel_values is ["a"]; it must be a list'),
        (put("rest_flops", value=float("nan")), "rest_flops is NaN; it must be an integer"),
        (put("rest_flops", value=10**400), "...; it must be an integer"),
        (put("dtype", value="fp8"), 'dtype is "fp8"; it must be one of fp32, fp16, bf16'),
        (put("opset", value="x"), 'opset is "x"; it must be an integer'),
        (put("target", value=[]), "target is []; it must be text"),
        (put("source", value=None), "source is null; it must be an object"),
        (put("source", "sha256", value=7), "source.sha256 is 7; it must be text or null"),
        (put("setting", "threshold", value="abc"), 'setting.threshold is "abc"; it must be a number, "inf"'),
        (put("setting", "threshold", value=float("nan")), "setting.threshold is NaN; it must be a number"),
        (put("setting", "threshold", value=False), "setting.threshold is false; it must be a number"),
        (put("setting", "threshold", value=10**400), "setting.threshold is 1000"),
        (put("setting", "max_learners", value="2"), 'setting.max_learners is "2"; it must be an integer'),
        (put("setting", "other", value=1), "setting.other is not a field of this schema"),
        (lambda content: content.pop("producer") and None, "producer is missing"),
        (put("schema", value=True), "has no schema version"),
        (lambda _: [1], "has no schema version"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused_by_every_verb(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = with_manifest(exported, tmp_path / "changed.onnx", change)
    for args in (["inspect"], ["inspect", "--json"], ["set-budget", "--trained"]):
        result = run(args[0], path, *args[1:])
        assert result.exit_code == 1
        assert message in result.stderr
        assert f"manifest of {path}" in result.stderr
        assert "hint:" in result.stderr
        assert not result.stdout or "--json" in args


def test_verify_refuses_a_manifest_with_an_unknown_dtype(exported: Path, tmp_path: Path) -> None:
    path = with_manifest(exported, tmp_path / "changed.onnx", put("dtype", value="fp8"))
    result = run("verify", path, "--checkpoint", ACM)
    assert result.exit_code == 1
    assert 'dtype is "fp8"' in result.stderr


@pytest.mark.parametrize("text", ["{", "[" * 100_000, ""], ids=["cut", "deep", "empty"])
def test_a_manifest_that_is_not_json_is_refused(exported: Path, text: str) -> None:
    model = onnx.load(exported)
    model.metadata_props[0].value = text
    with pytest.raises(ModelFileError, match="not JSON"):
        read_manifest(model, exported)


@pytest.mark.parametrize("threshold", [0, -1.5, "inf", "-inf", None])
def test_every_setting_that_can_be_written_is_read(exported: Path, tmp_path: Path, threshold: Any) -> None:
    path = with_manifest(exported, tmp_path / "changed.onnx", put("setting", "threshold", value=threshold))
    setting = read_manifest(onnx.load(path), path).setting
    assert setting.threshold == (None if threshold is None else float(threshold))


def nan(tensor: TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), tensor.name))


def short(tensor: TensorProto) -> None:
    tensor.raw_data = tensor.raw_data[:7]


def none_at_all(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "[nan, nan, nan, nan], but the manifest says [0.0, 0.0, 0.0, 0.0]"),
        (short, "has 7 bytes; float32 [4] needs 16"),
        (none_at_all, "has 0 bytes; float32 [4] needs 16"),
        (lambda tensor: point_at(tensor, "other.bin"), "has 0 bytes; float32 [4] needs 16"),
    ],
)
def test_inspect_refuses_thresholds_that_contradict_the_manifest(
    exported: Path, tmp_path: Path, change: Callable[[TensorProto], object], message: str
) -> None:
    (tmp_path / "other.bin").write_bytes(bytes(100))
    path = with_tensor(exported, tmp_path / "changed.onnx", f"{MLP}.thresholds", change)
    result = run("inspect", path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert f"{MLP}.thresholds" in result.stderr
    assert "hint:" in result.stderr
    assert not result.stdout


def in_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["stray"], value=tensor))


def in_list(model: onnx.ModelProto, tensor: TensorProto) -> None:
    attribute = AttributeProto(name="several", type=AttributeProto.TENSORS, tensors=[tensor])
    model.graph.node[0].attribute.append(attribute)


def in_subgraph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["stray"], ["y"])], "branch", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.functions[0].node.append(helper.make_node("Constant", [], ["stray"], value=tensor))


def in_sparse_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add(dims=[4]).values.CopyFrom(tensor)


@pytest.mark.parametrize("place", [in_attribute, in_list, in_subgraph, in_function, in_sparse_initializer])
def test_external_data_is_checked_for_every_tensor(
    exported: Path, tmp_path: Path, place: Callable[[onnx.ModelProto, TensorProto], None]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "in" / "data").write_bytes(bytes(16))
    path = tmp_path / "in" / "m.onnx"
    for name, message in (("../secret", "outside the model's folder"), ("gone", "gone is missing"), ("data", "")):
        model = onnx.load(exported)
        place(model, external(name, offset=0, length=16))
        path.write_bytes(model.SerializeToString())
        if message:
            with pytest.raises(ModelFileError, match=message):
                read_model(path)
        else:
            assert data_files(read_model(path)) == ["data"]


@pytest.mark.parametrize("entries", [{}, {"offset": 0, "length": 0}, {"offset": 1}, {"length": 3}])
def test_external_data_must_be_as_long_as_the_tensor(exported: Path, tmp_path: Path, entries: dict[str, int]) -> None:
    path = with_tensor(exported, tmp_path / "m.onnx", f"{MLP}.w1", lambda t: point_at(t, "short.bin", **entries))
    (tmp_path / "short.bin").write_bytes(b"abc")
    end = W1_BYTES + entries.get("offset", 0)
    with pytest.raises(ModelFileError, match=rf"short\.bin has 3 bytes, {MLP}\.w1 ends at {end}"):
        read_model(path)
    (tmp_path / "short.bin").write_bytes(bytes(end))
    read_model(path)


@pytest.mark.parametrize(
    ("data_type", "needed"),
    [(TensorProto.INT4, 3), (TensorProto.BFLOAT16, 10), (TensorProto.BOOL, 5), (TensorProto.DOUBLE, 40), (99, 1)],
)
def test_the_length_of_external_data_follows_from_type_and_shape(
    exported: Path, tmp_path: Path, data_type: int, needed: int
) -> None:
    model = onnx.load(exported)
    stray = external("data", length=1)
    stray.data_type, stray.dims[:] = data_type, [5]
    model.graph.initializer.append(stray)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "data").write_bytes(bytes(needed))
    read_model(tmp_path / "m.onnx")
    (tmp_path / "data").write_bytes(bytes(needed - 1))
    with pytest.raises(ModelFileError, match=f"ends at {needed}"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_locations_that_name_no_file_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    path = with_tensor(exported, tmp_path / "m.onnx", f"{MLP}.w1", lambda t: point_at(t, name))
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read_model(path)


def test_inspect_counts_the_learners_that_always_run(exported: Path) -> None:
    summary = inspect(exported)
    manifest = summary.manifest
    always = sum(e.tokens * e.learner_flops for e in manifest.layers if e.min_learners == 1)
    gates = sum(e.tokens * e.gate_flops for e in manifest.layers)
    expected = f"{(manifest.rest_flops + gates + always) / 1e6:.4g} M with only those that always run"
    assert always
    assert any(expected in line for line in describe(summary))


def test_files_that_are_not_onnx_come_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (b"", bytes(100), b"\xff" * 3000):
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as refused:
            read_model(path)
        assert "export it again" in str(refused.value.hint)
