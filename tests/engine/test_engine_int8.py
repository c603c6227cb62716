"""Engines of int8 files: builder settings, plans, trtexec commands, and the tolerances of the comparison."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from engine_builds import VERSIONS
from engine_fake_tensorrt import Layer, fake
from exported_files import images, run

from acm_export.base.errors import EngineError
from acm_export.cli import main
from acm_export.engine.agreement import Agreement
from acm_export.engine.check import INT8_ENGINE_TOLERANCE, PortableFile, judge
from acm_export.engine.host import Platform
from acm_export.engine.passport import File, Passport, passport_path, read_passport, to_text
from acm_export.engine.plan import plan_engine
from acm_export.engine.release import Release
from acm_export.engine.settings import BuilderSettings, set_precision
from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.targets import rewrite_for
from acm_export.verification.report import INT8_MARGIN_TOLERANCE

if TYPE_CHECKING:
    from pathlib import Path


def dry_run(model: Path, output: Path, *options: str) -> Any:
    return CliRunner().invoke(main, ["build-engine", str(model), "-o", str(output), "--dry-run", *options])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("half", [False, True])
def test_only_tensorrt_8_gets_an_int8_flag_and_leaves_dequantized_values_free(version: str, half: bool) -> None:
    tensorrt, seen = fake(version)
    f16, f32, weak = tensorrt.float16, tensorrt.float32, version.startswith("8")
    kinds = tensorrt.LayerType
    cast = kinds.IDENTITY if version.startswith("8.5") else kinds.CAST
    seen.layers[:] = [
        Layer(kinds.QUANTIZE, tensorrt.int8, weak, "q", ("x", "scale")),
        Layer(kinds.DEQUANTIZE, f32, weak, "dq", ("q", "scale")),
        Layer(cast, f16, weak, "dq16", ("dq",)),
        Layer(kinds.MATRIX_MULTIPLY, f16, weak, "product", ("dq16", None)),
        Layer(kinds.ELEMENTWISE, f16, weak, "sum", ("product", "bias")),
        Layer(kinds.PLUGIN_V2, f16, weak, "y", ("sum",)),
        Layer(kinds.MATRIX_MULTIPLY, f16, weak, "attention", ("y", "sum")),
    ]
    config = tensorrt.Builder(None).create_builder_config()
    network = tensorrt.Builder(None).create_network(0)
    set_precision(tensorrt, network, config, BuilderSettings({}, half=half, int8=True))
    flags = {"INT8": True} | ({"FP16": True, "OBEY_PRECISION_CONSTRAINTS": True} if half else {})
    assert seen.flags == {"TF32": False} | (flags if weak else {})
    free = [None] * 4
    constrained = [f16, None, f16] if weak and half else [None] * 3
    assert [getattr(layer, "precision", None) for layer in seen.layers] == [*free, *constrained]


def test_a_dry_run_says_what_runs_in_int8(int8_files: Path, tmp_path: Path) -> None:
    done = dry_run(int8_files / "mixed.onnx", tmp_path / "m.plan")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if "takes files" in line]
    assert len(lines) == 3
    assert all(line.endswith("; int8: 2 ACM layers in the plugin, 7 linear layers as Q/DQ") for line in lines)
    plans = json.loads(dry_run(int8_files / "mixed.onnx", tmp_path / "m.plan", "--json").stdout)["plans"]
    assert [("--int8" in plan["trtexec"], "--stronglyTyped" in plan["trtexec"]) for plan in plans] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert all(plan["int8"]["activations"] == "static" for plan in plans)


def test_float_files_do_not_mention_int8(vit_files: Path, tmp_path: Path) -> None:
    assert "int8" not in dry_run(vit_files / "m.onnx", tmp_path / "m.plan").output
    plans = json.loads(dry_run(vit_files / "m.onnx", tmp_path / "m.plan", "--json").stdout)["plans"]
    assert [plan["int8"] for plan in plans] == [None] * 3
    for version in ((8, 6), (10, 3)):
        assert not plan_engine(vit_files / "m.onnx", tmp_path / "m.plan", Release(version)).settings.int8


def test_dynamic_activations_are_refused_before_tensorrt_is_needed(int8_files: Path, tmp_path: Path) -> None:
    done = dry_run(int8_files / "dynamic.onnx", tmp_path / "m.plan")
    assert done.exit_code == 1
    assert "scales its activations at run time" in done.output
    assert "acm-export quantize" in done.output


def test_the_saved_file_and_the_passport_keep_the_manifest(int8_files: Path, tmp_path: Path) -> None:
    done = dry_run(int8_files / "m.onnx", tmp_path / "m.plan", "--save-onnx", str(tmp_path / "saved.onnx"))
    assert done.exit_code == 0, done.output
    manifest = plan_engine(tmp_path / "saved.onnx", tmp_path / "m.plan", Release((10, 3))).prepared.manifest
    assert manifest.quantization is not None
    assert [layer.activations for layer in manifest.layers] == ["static"] * 3
    here, file = Platform("10.3.0", "Orin", "sm_87"), File("f", "0" * 64)
    passport = Passport(here, file, file, file, {}, {}, False, manifest)
    passport_path(tmp_path / "m.plan").write_text(to_text(passport))
    assert read_passport(tmp_path / "m.plan") == passport


@pytest.mark.parametrize("target", ["portable", "tensorrt", "ort-tensorrt"])
def test_the_file_of_an_engine_runs_with_its_int8_body(target: str, int8_files: Path, tmp_path: Path) -> None:
    model = onnx.load(int8_files / "mixed.onnx")
    write_manifest(model, rewrite_for(model, read_manifest(model, "mixed"), target))
    onnx.save(model, tmp_path / "m.onnx")
    thresholds = {layer.name: np.zeros(4, np.float32) for layer in read_manifest(model, "mixed").layers}
    feeds = {"pixel_values": images(3).numpy()}
    found = PortableFile(tmp_path / "m.onnx").run(feeds, thresholds)
    expected = run(int8_files / "mixed.onnx", pixel_values=images(3))
    np.testing.assert_allclose(found.outputs["logits"], expected["logits"], atol=1e-5)
    assert found.counts.keys() == found.logits.keys() == thresholds.keys()


def test_an_int8_engine_has_the_tolerances_of_int8() -> None:
    near = Agreement((INT8_ENGINE_TOLERANCE,), 1, 1, 40, INT8_MARGIN_TOLERANCE)
    assert judge([near], "fp32", 1, int8=True).error == INT8_ENGINE_TOLERANCE
    with pytest.raises(EngineError, match="for fp32"):
        judge([near], "fp32", 1)
    with pytest.raises(EngineError, match="for int8"):
        judge([Agreement((INT8_ENGINE_TOLERANCE * 1.01,), 1, 0, 40)], "fp32", 1, int8=True)
    with pytest.raises(EngineError, match="rounding in int8 explains at most 1"):
        judge([Agreement((0.0,), 1, 1, 40, INT8_MARGIN_TOLERANCE * 1.01)], "fp32", 1, int8=True)
