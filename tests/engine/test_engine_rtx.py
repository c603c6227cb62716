"""``build-engine --runtime tensorrt-rtx`` as far as it goes without TensorRT-RTX: plans, refusals, the rewritten file.

tests/builder runs the rest with the real builder.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from exported_files import images
from tiny_models import tiny_vit

from acm_export.base.errors import ExportError, UsageError
from acm_export.cli import main
from acm_export.engine import host
from acm_export.engine.engine import build_engine
from acm_export.engine.passport import passport_path, read_passport, to_text
from acm_export.engine.prepare import ExtraIO, prepare
from acm_export.engine.release import Release
from acm_export.exporter import export

if TYPE_CHECKING:
    from pathlib import Path

RTX = Release((1, 7), "tensorrt-rtx")


@pytest.fixture
def no_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_spec", lambda _: None)


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.9])
def test_the_parsed_file_computes_what_the_portable_file_computes(files: Path, budget: float) -> None:
    pixels = images(4).numpy()
    original = run(onnx.load(files / "b.onnx"), pixel_values=pixels, budget=np.array(budget, np.float32))
    prepared = prepare(files / "b.onnx", RTX)
    assert prepared.fixed == {"budget": (1,)}
    parsed = run(prepared.model, pixel_values=pixels, budget=np.array([budget], np.float32))
    for name, value in original.items():
        np.testing.assert_array_equal(parsed[name], value)
    with pytest.raises(ValueError, match="budget"):  # it has no default that the parser would take for a constant
        run(prepared.model, pixel_values=pixels)


def test_thresholds_as_inputs_of_the_parsed_file(files: Path) -> None:
    pixels = images(4).numpy()
    prepared = prepare(files / "m.onnx", RTX, ExtraIO(thresholds=True))
    layers = prepared.manifest.layers
    assert prepared.fixed == {layer.thresholds: (layer.num_learners,) for layer in layers}
    for tau in (-np.inf, 0, np.inf):
        thresholds = {layer.thresholds: np.full(layer.num_learners, tau, np.float32) for layer in layers}
        counts = run(prepared.model, pixel_values=pixels, **thresholds)
        for layer in layers:
            found = counts[f"counts/{layer.name}"]
            if np.isinf(tau):
                assert (found == (layer.min_learners if tau > 0 else layer.num_learners)).all()
            else:
                assert len({*found.flat}) > 1  # the gates decide


def test_the_plan(files: Path, tmp_path: Path, no_rtx: None) -> None:  # noqa: ARG001
    arguments = ["build-engine", str(files / "b.onnx"), "-o", str(tmp_path / "b.rtx"), "--dry-run"]
    done = CliRunner().invoke(main, [*arguments, "--runtime", "tensorrt-rtx", "--json"])
    assert done.exit_code == 0, done.output
    [plan] = json.loads(done.stdout)["plans"]
    assert (plan["runtime"], plan["target"]) == ("tensorrt-rtx", "portable")
    assert (plan["trtexec"], plan["retarget"], plan["converted"]) == (None, None, False)
    assert plan["profiles"]["budget"] == {"minimum": [1], "optimum": [1], "maximum": [1]}
    assert plan["profiles"]["pixel_values"]["maximum"] == [8, 1, 8, 8]
    for size, code in (("1", 0), ("2", 2)):
        given = [*arguments, "--runtime", "tensorrt-rtx", "--opt-shapes", f"budget:{size}"]
        assert CliRunner().invoke(main, given).exit_code == code
    shown = CliRunner().invoke(main, [*arguments, "--runtime", "tensorrt-rtx"])
    assert "TensorRT-RTX 1.7 takes files for the target portable" in shown.output
    assert "trtexec" not in shown.output


def test_a_runtime_that_is_not_installed(files: Path, tmp_path: Path, no_rtx: None) -> None:  # noqa: ARG001
    arguments = ["build-engine", str(files / "m.onnx"), "-o", str(tmp_path / "m.rtx"), "--runtime", "tensorrt-rtx"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "TensorRT-RTX is not installed for this Python" in done.output
    assert "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings" in done.output


@pytest.mark.parametrize("option", ["plugin", "tensorrt_root", "cuda_root", "data", "processor", "save_onnx"])
def test_options_without_effect_are_refused(files: Path, tmp_path: Path, option: str) -> None:
    given = {option: tmp_path / "x.onnx"}
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} has no effect with TensorRT-RTX"):
        build_engine(files / "m.onnx", tmp_path / "m.rtx", runtime="tensorrt-rtx", dry_run=True, **given)  # type: ignore[arg-type]


def test_an_unknown_runtime_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown runtime 'rtx'"):
        build_engine(files / "m.onnx", tmp_path / "m.rtx", runtime="rtx", dry_run=True)


def test_int8_layers_are_refused(int8_files: Path) -> None:
    with pytest.raises(ExportError, match="needs MatMulInteger"):
        prepare(int8_files / "m.onnx", RTX)


def test_dense_int8_layers_get_the_zero_point_of_tensorrt(int8_files: Path) -> None:
    graph = prepare(int8_files / "dense.onnx", RTX).model.graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros
    assert {t.data_type for t in graph.initializer if t.name in zeros} == {onnx.TensorProto.INT8}


def test_half_precision_normalizations_run_in_float32(tmp_path: Path) -> None:
    export(tiny_vit(), {"pixel_values": images(2)}, tmp_path / "m.onnx", dtype="fp16", verify=False)
    graph = prepare(tmp_path / "m.onnx", RTX).model.graph
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == 1}
    assert len(norms) == 5
    assert all(set(node.input) <= casts for node in norms)


def test_an_engine_of_tensorrt_rtx_is_not_run(
    files: Path, tmp_path: Path, machine_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with("10.3.0")
    built = build_engine(files / "m.onnx", tmp_path / "m.plan", plugin=files / "plugin-10.3.0.so").passport
    assert built is not None
    rtx = host.Platform("1.7.1.116", None, None, "tensorrt-rtx")
    passport_path(tmp_path / "m.plan").write_text(to_text(type(built)(**(vars(built) | {"platform": rtx}))))
    assert read_passport(tmp_path / "m.plan").platform == rtx
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = CliRunner().invoke(main, ["latency", str(tmp_path / "m.plan")])
    assert done.exit_code == 1
    assert "m.plan was built for TensorRT-RTX 1.7.1.116, whose engines acm-export does not run" in done.output
    assert f"tensorrt_rtx --loadEngine={tmp_path / 'm.plan'}" in done.output
    (tmp_path / "m.rtx").write_bytes(b"vtrt")
    assert "m.rtx is an engine of TensorRT-RTX" in CliRunner().invoke(main, ["latency", str(tmp_path / "m.rtx")]).output


def test_a_passport_of_schema_2_is_of_tensorrt(files: Path, tmp_path: Path, machine_with: Any) -> None:
    machine_with("10.3.0")
    build_engine(files / "m.onnx", tmp_path / "m.plan", plugin=files / "plugin-10.3.0.so")
    content = json.loads(passport_path(tmp_path / "m.plan").read_text())
    del content["platform"]["runtime"]
    passport_path(tmp_path / "m.plan").write_text(json.dumps(content | {"schema": 2}))
    assert read_passport(tmp_path / "m.plan").platform.runtime == "tensorrt"
