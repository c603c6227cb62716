"""``build-engine`` up to the builder, on a real file, with stand-ins for TensorRT."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from click.testing import CliRunner
from engine_fake_tensorrt import fake
from plugin_build import compile_stand_in_plugin

from acm_export.base.errors import EngineError, UsageError
from acm_export.base.files import sha256_of
from acm_export.checkpoints import load_checkpoint
from acm_export.cli import main
from acm_export.demo.digits import ACM
from acm_export.engine import engine
from acm_export.engine.build import build
from acm_export.engine.engine import PluginSource
from acm_export.engine.library import check_library, load_plugin
from acm_export.engine.machine import version_of
from acm_export.engine.passport import File, Place, check_usable, passport_path, read_passport
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

VERSIONS = ("8.5.3.1", "10.3.0", "11.1.0")
HERE = Place("10.3.0", "Orin", "sm_87")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "m.onnx"
    export(load_checkpoint(ACM), output=path, verify=False)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_each_api_generation_builds(model: Path, tmp_path: Path, version: str) -> None:
    tensorrt, seen = fake(version)
    planned = engine.plan(
        model, tmp_path / "m.plan", version_of(tensorrt), ({}, {}, {}), timing_cache=tmp_path / "cache"
    )
    assert build(tensorrt, planned.prepared, planned.settings) == b"engine"
    parsed = onnx.load_from_string(seen.parsed)
    assert not parsed.functions
    assert parsed.opset_import[0].version == (17 if version.startswith("8") else 20)
    assert seen.flags == {"TF32": False}
    assert seen.shapes == {"pixel_values": ((1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32))}
    assert (tmp_path / "cache").read_bytes() == b"+"
    assert (seen.monitor is None) == version.startswith("8")


def test_flags_go_by_name() -> None:
    assert [network_flags(fake(version)[0]) for version in VERSIONS] == [1, 2, 4]


def test_half_layers_are_pinned_on_tensorrt_8_alone() -> None:
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
    planned = engine.plan(model, tmp_path / "m.plan", version_of(tensorrt), ({}, {}, {}))
    first = planned.prepared.model.graph.node[0]
    where = f"{first.name} ({first.op_type})" if version.startswith("8") else "a (B)"
    with pytest.raises(EngineError, match="and 2 more") as caught:
        build(tensorrt, planned.prepared, planned.settings)
    assert f"node 0 {where}: no importer" in str(caught.value)


def test_a_builder_without_result_is_an_error(model: Path, tmp_path: Path) -> None:
    tensorrt, _ = fake("10.3.0", plan=None)
    planned = engine.plan(model, tmp_path / "m.plan", (10, 3), ({}, {}, {}))
    with pytest.raises(EngineError, match="could not build"):
        build(tensorrt, planned.prepared, planned.settings)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_registry_is_asked_before_the_parser(tmp_path: Path, version: str) -> None:
    library = compile_stand_in_plugin(tmp_path, version)
    load_plugin(fake(version)[0], library)
    with pytest.raises(EngineError, match="it has version '2'"):
        load_plugin(fake(version, creator=False)[0], library)
    if not version.startswith("8"):
        with pytest.raises(EngineError, match="does not load"):
            load_plugin(fake(version, handle=None)[0], library)


def test_a_library_that_is_none_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    tensorrt, library = fake("10.3.0")[0], tmp_path / "plugin.so"
    with pytest.raises(EngineError, match="there is no"):
        load_plugin(tensorrt, library)
    library.write_bytes(b"x")
    with pytest.raises(EngineError, match="no shared library"):
        load_plugin(tensorrt, library)
    with pytest.raises(EngineError, match=r"built for TensorRT 8\.5\.3, here is 10\.3\.0"):
        check_library(compile_stand_in_plugin(tmp_path, "8.5.3"), "10.3.0")


def test_headers_of_another_tensorrt_are_refused_before_compiling(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find_place", lambda _: HERE)
    monkeypatch.setattr(engine, "tensorrt_headers", lambda _: TensorRTHeaders(tmp_path / "include", (8, 5, 3)))
    planned = engine.plan(model, tmp_path / "m.plan", (10, 3), ({}, {}, {}))
    with pytest.raises(EngineError, match=r"are of 8\.5\.3, here is 10\.3\.0"):
        engine.build_engine(planned, fake("10.3.0")[0], PluginSource(), None)
    assert list(tmp_path.iterdir()) == []


def test_tactic_sources_change_the_default() -> None:
    tensorrt, seen = fake("8.5.3.1")
    config = tensorrt.Builder(None).create_builder_config()
    set_tactic_sources(tensorrt, config, parse_tactic_sources("-cudnn,+JIT_CONVOLUTIONS"))
    assert seen.tactic_sources == 0b1001
    with pytest.raises(EngineError, match="no tactic source CUBLASX"):
        set_tactic_sources(tensorrt, config, ("+CUBLASX",))
    for wrong in ("CUDNN", "+", "", "-CUDNN;"):
        with pytest.raises(UsageError, match="--tactic-sources"):
            parse_tactic_sources(wrong)


def test_an_engine_and_its_passport(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_place", lambda _: HERE)
    plugin, output = compile_stand_in_plugin(tmp_path), tmp_path / "m.plan"
    planned = engine.plan(model, output, (10, 3), ({}, {}, {}))
    engine.build_engine(planned, fake("10.3.0")[0], PluginSource(plugin), None)
    assert output.read_bytes() == b"engine"
    found = check_usable(output, plugin, HERE)
    assert found.model == File("m.onnx", sha256_of(model))
    assert found.inputs == {"pixel_values": ["batch", 3, 32, 32]}
    assert found.manifest == planned.prepared.manifest
    assert found.checked is None
    for other in (Place("10.13.0", "Orin", "sm_87"), Place("10.3.0", "Thor", "sm_110")):
        with pytest.raises(EngineError, match="was built"):
            check_usable(output, plugin, other)
    with pytest.raises(EngineError, match="no plugin library"):
        check_usable(output, tmp_path / "absent.so", HERE)
    plugin.write_bytes(b"y")
    with pytest.raises(EngineError, match="SHA-256"):
        check_usable(output, plugin, HERE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2"),
        ({"place": {"tensorrt": "10.3.0", "gpu": 1, "arch": "sm_87"}}, "place.gpu is 1"),
        ({"inputs": {"x": [None]}}, "inputs.x"),
        ({"profiles": {"x": [[1], [2]]}}, "profiles.x"),
        ({"manifest": {}}, "manifest"),
        ({"more": 1}, "more is not a field"),
    ],
)
def test_a_broken_passport_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(engine, "find_place", lambda _: HERE)
    output, plugin = tmp_path / "m.plan", PluginSource(compile_stand_in_plugin(tmp_path))
    engine.build_engine(engine.plan(model, output, (10, 3), ({}, {}, {})), fake("10.3.0")[0], plugin, None)
    content = json.loads(passport_path(output).read_text())
    passport_path(output).write_text(json.dumps(content | change))
    with pytest.raises(EngineError, match=told):
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


def test_a_builder_that_does_not_start_is_an_error(model: Path, tmp_path: Path) -> None:
    tensorrt, _ = fake("8.5.3.1")

    def builder(_logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")  # as 8.5.3 does without a GPU

    tensorrt.Builder = builder
    planned = engine.plan(model, tmp_path / "m.plan", (8, 5), ({}, {}, {}))
    with pytest.raises(EngineError, match="makes no builder"):
        build(tensorrt, planned.prepared, planned.settings)


def test_the_file_for_trtexec(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    saved = tmp_path / "for-trtexec.onnx"
    arguments = ["build-engine", str(model), "-o", str(tmp_path / "m.plan"), "--dry-run", "--save-onnx"]
    done = CliRunner().invoke(main, [*arguments, str(saved)])
    assert done.exit_code == 0, done.output
    plans = json.loads(CliRunner().invoke(main, [*arguments, str(saved), "--json"]).stdout)["plans"]
    assert {(p["target"], p["converted"], f"--onnx={saved} " in p["trtexec"]) for p in plans} == {
        ("tensorrt-8", True, False), ("tensorrt", False, True)
    }  # fmt: skip
    summary = inspect(saved)
    assert summary.manifest.target == "tensorrt"
    assert sum(name.startswith("counts/") for name in summary.outputs) == len(summary.manifest.layers)
    refused = CliRunner().invoke(main, [*arguments, str(model)])
    assert refused.exit_code == 2
