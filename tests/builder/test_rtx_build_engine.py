"""``build-engine --runtime tensorrt-rtx`` with the real builder: profiles, inputs, refusals, interrupts, passport."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from calibration_files import calibrated, write_images
from exported_files import images, names
from old_files import with_overloads
from onnx import inliner
from onnx.external_data_helper import convert_model_to_external_data
from quantized_files import quantize_file
from rtx_builder import build, command, environment, needs_rtx, parsed_layers, run
from tiny_models import tiny_vit

from acm_export.base.errors import EngineError
from acm_export.base.files import sha256_of
from acm_export.engine.host import Platform
from acm_export.engine.passport import check_usable, read_passport
from acm_export.exporter import export
from acm_export.modules import ACMSpec

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_rtx, pytest.mark.slow]

RTX = ("--runtime", "tensorrt-rtx")


def refused(*arguments: str | Path) -> dict[str, Any]:
    """The error that ``build-engine --json`` reports."""
    done = run("build-engine", *arguments, *RTX, "--json")
    assert done.returncode in (1, 2), done.stdout
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    return error


def test_an_engine_and_its_passport(vit_files: Path, tmp_path: Path) -> None:
    result = build(vit_files / "m.onnx", tmp_path / "m.rtx", "--max-shapes", "pixel_values:16x1x8x8")
    assert names(tmp_path) == ["m.rtx", "m.rtx.json"]
    passport = read_passport(tmp_path / "m.rtx")
    assert json.loads((tmp_path / "m.rtx.json").read_text()) == result["passport"]
    assert passport.platform.runtime == "tensorrt-rtx"
    assert (passport.platform.gpu, passport.plugin, passport.comparison) == (None, None, None)
    assert passport.engine.sha256 == sha256_of(tmp_path / "m.rtx")
    assert passport.model.sha256 == sha256_of(vit_files / "m.onnx")
    assert passport.profiles == {"pixel_values": [[1, 1, 8, 8], [1, 1, 8, 8], [16, 1, 8, 8]]}
    assert sum(name.startswith("counts/") for name in result["plans"][0]["outputs"]) == len(passport.manifest.layers)
    with pytest.raises(EngineError, match="acm-export does not run"):
        check_usable(tmp_path / "m.rtx", tmp_path / "none.so", Platform("10.3.0", "Orin", "sm_87"))


def test_a_dense_file_builds_too(vit_files: Path, tmp_path: Path) -> None:
    result = build(vit_files / "dense.onnx", tmp_path / "dense.rtx")
    assert result["passport"]["manifest"]["layers"] == []


def test_every_layer_gets_the_body_of_its_signature(tmp_path: Path) -> None:
    specs = {f"vit.layers.{i}.mlp": ACMSpec(12, 4, 6, activation=name) for i, name in enumerate(("silu", "relu"))}
    export(tiny_vit(specs), images(2), tmp_path / "m.onnx", verify=False)
    onnx.save(inliner.inline_local_functions(onnx.load(tmp_path / "m.onnx")), tmp_path / "inlined.onnx")
    expected = Counter(parsed_layers(tmp_path / "inlined.onnx"))
    assert Counter(parsed_layers(tmp_path / "m.onnx")) == expected
    old = with_overloads(tmp_path / "m.onnx", tmp_path / "old.onnx")
    assert Counter(parsed_layers(old)) != expected  # the parser takes one body for both layers


@pytest.mark.parametrize("option", [(), ("--threshold-inputs",), ("--no-counts",)])
def test_budget_and_thresholds_are_inputs_of_the_engine(
    vit_files: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    write_images(tmp_path / "d.npz", 32)
    calibrated(vit_files / "m.onnx", tmp_path / "d.npz", tmp_path / "b.onnx", (0.5,), budget_input=True)
    [plan] = build(tmp_path / "b.onnx", tmp_path / "b.rtx", *option)["plans"]
    layers = read_passport(tmp_path / "b.rtx").manifest.layers
    by_thresholds = option == ("--threshold-inputs",)
    expected = {layer.thresholds: [layer.num_learners] for layer in layers} if by_thresholds else {"budget": [1]}
    assert plan["profiles"].keys() == {"pixel_values", *expected}
    for name, shape in expected.items():
        assert plan["profiles"][name] == dict.fromkeys(("minimum", "optimum", "maximum"), shape)
    assert any(name.startswith("counts/") for name in plan["outputs"]) == (option != ("--no-counts",))


def test_weights_in_another_file(vit_files: Path, tmp_path: Path) -> None:
    model = onnx.load(vit_files / "m.onnx")
    convert_model_to_external_data(model, location="m.data", size_threshold=64)
    onnx.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.data").stat().st_size > 0
    build(tmp_path / "m.onnx", tmp_path / "m.rtx")


def test_a_timing_cache_has_no_effect_and_says_so(vit_files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = build(vit_files / "dense.onnx", tmp_path / "m.rtx", "--timing-cache", str(cache))
    assert "timing cache has no effect" in result["warnings"][0]
    assert cache.is_file()


def test_tactic_sources_are_those_of_the_builder(vit_files: Path, tmp_path: Path) -> None:
    build(vit_files / "dense.onnx", tmp_path / "m.rtx", "--tactic-sources", "-JIT_CONVOLUTIONS")
    error = refused(vit_files / "dense.onnx", "-o", tmp_path / "n.rtx", "--tactic-sources", "-CUDNN")
    assert "has no tactic source CUDNN" in error["message"]


def test_int8_files(vit_files: Path, int8_files: Path, tmp_path: Path) -> None:
    build(int8_files / "dense.onnx", tmp_path / "dense.rtx")
    feeds, layers = {"pixel_values": images(8)}, read_layers(vit_files / "m.onnx")
    quantize_file(vit_files / "m.onnx", tmp_path / "linears.onnx", feeds, keep=layers)
    build(tmp_path / "linears.onnx", tmp_path / "linears.rtx")
    error = refused(int8_files / "m.onnx", "-o", tmp_path / "m.rtx")
    assert "is int8; its portable body needs MatMulInteger" in error["message"]


def read_layers(path: Path) -> list[str]:
    manifest = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "acm")
    return [layer["name"] for layer in json.loads(manifest)["layers"]]


def test_the_reasons_of_parser_and_builder_are_reported(vit_files: Path, tmp_path: Path) -> None:
    model = onnx.load(vit_files / "dense.onnx")
    model.graph.node[3].domain, model.graph.node[3].op_type = "com.example", "Unknown"
    onnx.save(model, tmp_path / "unknown.onnx")
    error = refused(tmp_path / "unknown.onnx", "-o", tmp_path / "m.rtx")
    assert f"node 3 {model.graph.node[3].name} (Unknown)" in error["message"]

    sorted_tokens = 4000  # more than TopK takes
    error = refused(
        vit_files / "m.onnx",
        "-o",
        tmp_path / "m.rtx",
        *("--opt-shapes", f"pixel_values:{sorted_tokens}x1x8x8", "--max-shapes", f"pixel_values:{sorted_tokens}x1x8x8"),
    )
    assert "K exceeds the maximum value allowed (3840)" in error["message"]
    assert "smaller --opt-shapes" in error["hint"]
    assert names(tmp_path) == ["unknown.onnx"]


@pytest.mark.parametrize("option", ["--plugin", "--tensorrt-root", "--cuda-root", "--data", "--save-onnx"])
def test_options_without_effect_are_refused(vit_files: Path, tmp_path: Path, option: str) -> None:
    there = tmp_path if option.endswith("root") else tmp_path / "x.onnx"
    error = refused(vit_files / "m.onnx", "-o", tmp_path / "m.rtx", option, there)
    assert f"{option} has no effect with TensorRT-RTX" in error["message"]


def test_shapes_that_do_not_fit_are_refused(vit_files: Path, tmp_path: Path) -> None:
    error = refused(vit_files / "m.onnx", "-o", tmp_path / "m.rtx", "--max-shapes", "pixel_values:8x3x8x8")
    assert "has shape batchx1x8x8 in the model" in error["message"]


def test_an_existing_engine_survives_a_failed_build(vit_files: Path, tmp_path: Path) -> None:
    build(vit_files / "dense.onnx", tmp_path / "m.rtx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(vit_files / "m.onnx", "-o", tmp_path / "m.rtx", "--opt-shapes", "pixel_values:4000x1x8x8")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupt_while_building_writes_nothing(tmp_path: Path) -> None:
    export(tiny_vit({}, num_hidden_layers=48), images(2), tmp_path / "deep.onnx", verify=False)  # builds for seconds
    arguments = command("build-engine", tmp_path / "deep.onnx", "-o", tmp_path / "m.rtx", *RTX)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        seen = ""
        while "Building engine" not in seen:
            seen = process.stderr.readline()
            assert seen, "the build ended without its first phase"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 1, rest
    assert "interrupted" in rest
    assert names(tmp_path) == ["deep.onnx"]
