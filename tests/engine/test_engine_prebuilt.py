"""build-engine takes the prebuilt plugin library of the installed package where there is one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from engine_builds import HERE
from engine_fake_tensorrt import fake
from plugin_build import compile_fake_plugin
from prebuilt_files import Files, write_files

from acm_export.base.errors import EngineError, PluginError
from acm_export.base.files import sha256_of
from acm_export.base.progress import Silent
from acm_export.engine import build_planned as build_planned_module
from acm_export.engine import host
from acm_export.engine.build_planned import PluginSource, build_planned
from acm_export.engine.plan import plan_engine
from acm_export.engine.release import Release, release_of
from acm_export.plugins.tensorrt.headers import TensorRTHeaders

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A package with a library for TensorRT 10 that the fake registry accepts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "find_platform", lambda _: HERE)
    made = write_files(tmp_path, {"10": compile_fake_plugin(tmp_path).read_bytes()})
    made.install(monkeypatch)
    return made


def test_the_prebuilt_library_is_written_next_to_the_engine(files: Path, wheel: Files, tmp_path: Path) -> None:
    output = tmp_path / "out" / "m.plan"
    output.parent.mkdir()
    planned = plan_engine(files / "m.onnx", output, Release((10, 3)))
    passport = build_planned(planned, fake("10.3.0")[0], PluginSource(), None, Silent())
    library = output.with_name("libacm_gated_learners.so")
    assert library.read_bytes() == wheel.whole["10"]
    assert passport.plugin is not None
    assert passport.plugin.sha256 == sha256_of(library)
    assert sorted(path.name for path in output.parent.iterdir()) == [library.name, "m.plan", "m.plan.json"]


def built(files: Path, output: Path) -> Path:
    """Build an engine in an existing folder; returns the plugin library next to it."""
    tensorrt, _ = fake("10.3.0")
    planned = plan_engine(files / "m.onnx", output, release_of(tensorrt))
    build_planned(planned, tensorrt, PluginSource(), None, Silent())
    return output.with_name("libacm_gated_learners.so")


def test_no_cache_is_needed(files: Path, wheel: Files, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert built(files, tmp_path / "m.plan").read_bytes() == wheel.whole["10"]


def test_another_library_next_to_the_engine_is_not_replaced(files: Path, wheel: Files, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    library = folder / "libacm_gated_learners.so"
    library.write_bytes(b"compiled by the user")
    with pytest.raises(
        EngineError, match=r"is not the prebuilt plugin for TensorRT 10\.3: .* it is not replaced"
    ) as no:
        built(files, folder / "m.plan")
    assert str(library) in str(no.value)
    assert str(no.value.hint) == f"use it with --plugin {library}, or move it away"
    assert [path.name for path in folder.iterdir()] == [library.name]
    assert library.read_bytes() == b"compiled by the user"
    library.write_bytes(wheel.whole["10"])  # what an earlier build-engine wrote
    assert built(files, folder / "m.plan") == library


def test_a_compiled_library_does_not_replace_another_either(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compile_fake_plugin(tmp_path)
    monkeypatch.setattr(host, "find_platform", lambda _: HERE)
    headers = TensorRTHeaders(tmp_path / "include", (10, 3, 0))
    monkeypatch.setattr(build_planned_module, "tensorrt_headers", lambda _: headers)
    monkeypatch.setattr(build_planned_module, "build_plugin", lambda output, **_: shutil.copyfile(compiled, output))
    library = built(files, tmp_path / "m.plan")
    assert library.read_bytes() == compiled.read_bytes()
    assert built(files, tmp_path / "second.plan") == library
    library.write_bytes(b"another")
    with pytest.raises(EngineError, match=r"is not the compiled plugin for TensorRT 10\.3"):
        built(files, tmp_path / "third.plan")
    assert library.read_bytes() == b"another"


def refused(files: Path, output: Path, source: PluginSource, version: str = "10.3.0") -> str:
    """The reason why no engine is built; nothing is written."""
    output.parent.mkdir()
    tensorrt, _ = fake(version)
    planned = plan_engine(files / "m.onnx", output, release_of(tensorrt))
    with pytest.raises(PluginError) as caught:
        build_planned(planned, tensorrt, source, None, Silent())
    assert list(output.parent.iterdir()) == []
    return str(caught.value)


@pytest.mark.usefixtures("wheel")
def test_named_headers_mean_that_it_is_compiled(files: Path, tmp_path: Path) -> None:
    (tmp_path / "trt").mkdir()
    reason = refused(files, tmp_path / "out" / "m.plan", PluginSource(tensorrt_root=tmp_path / "trt"))
    assert f"no TensorRT headers (NvInferRuntime.h) in {tmp_path / 'trt'}" in reason


@pytest.mark.usefixtures("wheel")
def test_without_a_library_for_this_tensorrt_it_is_compiled(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acm_export.plugins.tensorrt.headers._usual_tensorrt_folders", lambda: iter(()))
    assert "no TensorRT headers" in refused(files, tmp_path / "out" / "m.plan", PluginSource(), "8.5.3.1")


def test_a_damaged_wheel_is_an_error(files: Path, wheel: Files, tmp_path: Path) -> None:
    (wheel.libraries / "10.zlib").write_bytes(b"")
    assert "10.zlib is damaged" in refused(files, tmp_path / "out" / "m.plan", PluginSource())
