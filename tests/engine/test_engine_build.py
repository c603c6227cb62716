"""``build-engine`` up to the builder, on a real file, with doubles of TensorRT."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from click.testing import CliRunner
from engine_fake_tensorrt import fake
from plugin_build import compile_fake_plugin

from acm_export.base.errors import EngineError, UsageError
from acm_export.base.files import sha256_of
from acm_export.base.progress import Silent
from acm_export.checkpoints import load_checkpoint
from acm_export.cli import main
from acm_export.demo.digits import ACM
from acm_export.engine import host
from acm_export.engine.build import build
from acm_export.engine.build_planned import PluginSource, build_planned
from acm_export.engine.engine import build_engine
from acm_export.engine.host import Platform
from acm_export.engine.library import check_library, load_plugin
from acm_export.engine.passport import File, check_usable, passport_path, read_passport
from acm_export.engine.plan import plan_engine
from acm_export.engine.release import Release, release_of
from acm_export.engine.settings import (
    BuilderSettings,
    network_flags,
    parse_tactic_sources,
    set_precision,
    set_tactic_sources,
)
from acm_export.exporter import export
from acm_export.onnx_file.inspection import inspect
from acm_export.plugins.tensorrt.headers import TensorRTHeaders

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("8.5.3.1", "10.3.0", "11.4.0.106")
HERE = Platform("10.3.0", "Orin", "sm_87")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "m.onnx"
    export(load_checkpoint(ACM), output=path, verify=False)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_each_api_generation_builds(model: Path, tmp_path: Path, version: str) -> None:
    tensorrt, seen = fake(version)
    planned = plan_engine(model, tmp_path / "m.plan", release_of(tensorrt), timing_cache=tmp_path / "cache")
    assert build(tensorrt, planned.prepared, planned.settings) == b"engine"
    parsed = onnx.load_from_string(seen.parsed)
    assert not parsed.functions
    assert parsed.opset_import[0].version == (17 if version.startswith("8") else 20)
    assert seen.flags == {"TF32": False}
    assert seen.shapes == {"pixel_values": ((1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32))}
    assert (tmp_path / "cache").read_bytes() == b"+"
    assert (seen.monitor is None) == version.startswith("8")


def test_network_flags_are_looked_up_by_name() -> None:
    assert [network_flags(fake(version)[0]) for version in VERSIONS] == [1, 2, 1]


def test_only_tensorrt_8_gets_the_precision_of_fp16_layers() -> None:
    for version in VERSIONS:
        tensorrt, seen = fake(version)
        config = tensorrt.Builder(None).create_builder_config()
        network = tensorrt.Builder(None).create_network(0)
        set_precision(tensorrt, network, config, BuilderSettings({}, tf32=True, half=True))
        weak = version.startswith("8")
        assert seen.flags == {"TF32": True} | ({"FP16": True, "OBEY_PRECISION_CONSTRAINTS": True} if weak else {})
        expected = [tensorrt.float16, None, tensorrt.float32, None] if weak else [None] * 4
        assert [getattr(layer, "precision", None) for layer in seen.layers] == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_parser_errors_name_node_and_operator(model: Path, tmp_path: Path, version: str) -> None:
    tensorrt, _ = fake(version, errors=12)
    planned = plan_engine(model, tmp_path / "m.plan", release_of(tensorrt))
    first = planned.prepared.model.graph.node[0]
    where = f"{first.name} ({first.op_type})" if version.startswith("8") else "a (B)"
    with pytest.raises(EngineError, match="and 2 more") as caught:
        build(tensorrt, planned.prepared, planned.settings)
    assert f"node 0 {where}: no importer" in str(caught.value)


def test_a_builder_without_result_is_an_error(model: Path, tmp_path: Path) -> None:
    tensorrt, _ = fake("10.3.0", plan=None)
    planned = plan_engine(model, tmp_path / "m.plan", Release((10, 3)))
    with pytest.raises(EngineError, match="could not build"):
        build(tensorrt, planned.prepared, planned.settings)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_registry_is_checked_before_parsing(tmp_path: Path, version: str) -> None:
    library = compile_fake_plugin(tmp_path, version)
    load_plugin(fake(version)[0], library)
    with pytest.raises(EngineError, match="it lists version '2'"):
        load_plugin(fake(version, creator=False)[0], library)
    with pytest.raises(EngineError, match=r"does not list QuantizedGatedLearners version '1' .* it lists none") as old:
        load_plugin(fake(version, creators=("GatedLearners",))[0], library)
    assert "acm-export build-plugin" in str(old.value.hint)
    if not version.startswith("8"):
        with pytest.raises(EngineError, match="cannot load"):
            load_plugin(fake(version, handle=None)[0], library)


def test_a_file_that_is_not_the_plugin_is_rejected_before_it_is_loaded(tmp_path: Path) -> None:
    tensorrt, library = fake("10.3.0")[0], tmp_path / "plugin.so"
    with pytest.raises(EngineError, match="does not exist"):
        load_plugin(tensorrt, library)
    library.write_bytes(b"x")
    with pytest.raises(EngineError, match="not a shared library"):
        load_plugin(tensorrt, library)
    with pytest.raises(EngineError, match=r"built for TensorRT 8\.5\.3, but 10\.3\.0 is installed"):
        check_library(compile_fake_plugin(tmp_path, "8.5.3"), "10.3.0")


def test_headers_of_another_tensorrt_are_rejected_before_compiling(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "find_platform", lambda _: HERE)
    headers = TensorRTHeaders(tmp_path / "include", (8, 5, 3))
    monkeypatch.setattr("acm_export.engine.build_planned.tensorrt_headers", lambda _: headers)
    planned = plan_engine(model, tmp_path / "m.plan", Release((10, 3)))
    with pytest.raises(EngineError, match=r"are of version 8\.5\.3, but TensorRT 10\.3\.0"):
        build_planned(planned, fake("10.3.0")[0], PluginSource(), None, Silent())
    assert list(tmp_path.iterdir()) == []


def test_tactic_sources_change_the_default() -> None:
    tensorrt, seen = fake("8.5.3.1")
    config = tensorrt.Builder(None).create_builder_config()
    set_tactic_sources(tensorrt, config, parse_tactic_sources("-cudnn,+JIT_CONVOLUTIONS"))
    assert seen.tactic_sources == 0b10001
    with pytest.raises(EngineError, match="no tactic source CUBLASX"):
        set_tactic_sources(tensorrt, config, ("+CUBLASX",))
    for wrong in ("CUDNN", "+", "", "-CUDNN;"):
        with pytest.raises(UsageError, match="--tactic-sources"):
            parse_tactic_sources(wrong)


def test_an_engine_and_its_passport(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_platform", lambda _: HERE)
    plugin, output = compile_fake_plugin(tmp_path), tmp_path / "m.plan"
    planned = plan_engine(model, output, Release((10, 3)))
    build_planned(planned, fake("10.3.0")[0], PluginSource(plugin), None, Silent())
    assert output.read_bytes() == b"engine"
    found = check_usable(output, plugin, HERE)
    assert found.model == File("m.onnx", sha256_of(model))
    assert found.inputs == {"pixel_values": ["batch", 3, 32, 32]}
    assert found.manifest == planned.prepared.manifest
    assert found.comparison is None
    for other in (Platform("10.13.0", "Orin", "sm_87"), Platform("10.3.0", "Thor", "sm_110")):
        with pytest.raises(EngineError, match="was built"):
            check_usable(output, plugin, other)
    with pytest.raises(EngineError, match="needs the plugin library"):
        check_usable(output, tmp_path / "absent.so", HERE)
    plugin.write_bytes(b"y")
    with pytest.raises(EngineError, match="SHA-256"):
        check_usable(output, plugin, HERE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 1}, "schema 1"),
        ({"platform": {"tensorrt": "10.3.0", "gpu": 1, "arch": "sm_87", "runtime": "tensorrt"}}, "platform.gpu is 1"),
        ({"platform": {"tensorrt": "10.3.0", "gpu": "Orin", "arch": "sm_87", "runtime": "trt"}}, "platform.runtime"),
        ({"inputs": {"x": [None]}}, "inputs.x"),
        ({"profiles": {"x": [[1], [2]]}}, "profiles.x"),
        ({"manifest": {}}, "manifest"),
        ({"more": 1}, "more is not a field"),
    ],
)
def test_a_broken_passport_is_rejected(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(host, "find_platform", lambda _: HERE)
    output, plugin = tmp_path / "m.plan", PluginSource(compile_fake_plugin(tmp_path))
    build_planned(plan_engine(model, output, Release((10, 3))), fake("10.3.0")[0], plugin, None, Silent())
    content = json.loads(passport_path(output).read_text())
    passport_path(output).write_text(json.dumps(content | change))
    with pytest.raises(EngineError, match=reason):
        read_passport(output)
    passport_path(output).write_text("[]")
    with pytest.raises(EngineError, match="schema None"):
        read_passport(output)


def test_a_dry_run_needs_no_tensorrt(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    file, output = shutil.copy(model, tmp_path / "m.onnx"), tmp_path / "m.plan"
    arguments = ["build-engine", str(file), "-o", str(output)]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert [plan["target"] for plan in json.loads(dry.stdout)["plans"]] == ["tensorrt-8", "tensorrt", "tensorrt"]
    assert not output.exists()
    real = CliRunner().invoke(main, arguments)
    assert real.exit_code == 1
    assert "doctor --for tensorrt" in real.output
    assert CliRunner().invoke(main, [*arguments, "--dry-run", "--max-shapes", "x:1"]).exit_code == 2


def test_the_python_function_takes_strings_and_mappings(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    shapes = {"pixel_values": (4, 3, 32, 32)}
    found = build_engine(str(model), str(tmp_path / "m.plan"), max_shapes=shapes, counts=False, dry_run=True)
    assert found.passport is None
    assert [plan.settings.profiles["pixel_values"].maximum for plan in found.plans] == [(4, 3, 32, 32)] * 3
    as_text = build_engine(model, tmp_path / "m.plan", max_shapes="pixel_values:4x3x32x32", counts=False, dry_run=True)
    assert as_text.to_json() == found.to_json()
    with pytest.raises(UsageError, match="--no-check"):
        build_engine(model, tmp_path / "m.plan", data=tmp_path / "d.npz", check=False, dry_run=True)


def test_a_builder_that_does_not_start_is_an_error(model: Path, tmp_path: Path) -> None:
    tensorrt, _ = fake("8.5.3.1")

    def builder(_logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")  # as 8.5.3 does without a GPU

    tensorrt.Builder = builder
    planned = plan_engine(model, tmp_path / "m.plan", Release((8, 5)))
    with pytest.raises(EngineError, match="cannot create a builder"):
        build(tensorrt, planned.prepared, planned.settings)


def test_the_file_for_trtexec(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    saved = tmp_path / "for-trtexec.onnx"
    arguments = ["build-engine", str(model), "-o", str(tmp_path / "m.plan"), "--dry-run", "--save-onnx"]
    done = CliRunner().invoke(main, [*arguments, str(saved)])
    assert done.exit_code == 0, done.output
    plans = json.loads(CliRunner().invoke(main, [*arguments, str(saved), "--json"]).stdout)["plans"]
    assert {(p["target"], p["converted"], f"--onnx={saved} " in p["trtexec"]) for p in plans} == {
        ("tensorrt-8", True, False),
        ("tensorrt", False, True),
    }
    summary = inspect(saved)
    assert summary.manifest.target == "tensorrt"
    assert sum(name.startswith("counts/") for name in summary.outputs) == len(summary.manifest.layers)
    refused = CliRunner().invoke(main, [*arguments, str(model)])
    assert refused.exit_code == 2
