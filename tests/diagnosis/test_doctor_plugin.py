"""The doctor's checks of compiler, headers, plugin library and registry, with faked surroundings."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_surroundings import LIBRARY, TENSORRT_10, Surroundings

from acm_export.diagnosis import plugin
from acm_export.machine.finding import Finding
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.machine.tensorrt import TensorRT, query_tensorrt

LOADED = Finding("plugin library", "ok", "lib.so, built for TensorRT 10.3.0")


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


TENSORRT_8 = """
import os
class Creator:
    plugin_version, plugin_namespace = '1', ''
    def __init__(self, name): self.name = name
class Registry:
    plugin_creator_list = [Creator(name) for name in (
        'GatedLearners', 'GLUGatedLearners', 'QuantizedGLUGatedLearners', 'QuantizedGatedLearners')]
def get_plugin_registry(): return Registry()
"""


def test_compiler_and_headers(around: Surroundings) -> None:
    around.tool("cmake", "")
    around.tool("c++", "echo compiler 12")
    assert plugin.compiler().state == "ok"
    assert "compiler 12" in plugin.compiler().found
    (around.bin / "cmake").unlink()
    around.no_tools()
    around.monkeypatch.delenv("CXX", raising=False)
    assert (plugin.compiler().state, plugin.compiler().fix) == ("missing", "apt install g++ cmake")


@pytest.mark.parametrize(("major", "state", "text"), [(10, "ok", "10.3.0 (IPluginV3)"), (7, "wrong", "7.3.0")])
def test_tensorrt_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, major: int, state: str, text: str) -> None:
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    (tmp_path / "NvInferRuntime.h").write_text("")
    version = zip(("MAJOR", "MINOR", "PATCH"), (major, 3, 0), strict=True)
    lines = [f"#define NV_TENSORRT_{part} {number}\n" for part, number in version]
    (tmp_path / "NvInferVersion.h").write_text("".join(lines))
    finding = plugin.headers()
    assert finding.state == state
    assert text in finding.found


def test_missing_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.plugins.tensorrt.headers._usual_tensorrt_folders", lambda: iter(()))
    monkeypatch.setattr("acm_export.plugins.tensorrt.headers._usual_cuda_folders", lambda: iter(()))
    assert plugin.headers().state == "missing"
    assert plugin.cuda_headers_found().state == "missing"


def test_the_plugin_library_is_searched_in_the_working_folder(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(around.folder)
    finding = check_plugin_library(None)
    assert (finding.state, finding.fix) == ("missing", "acm-export build-plugin")
    around.library("libacm_gated_learners.so", LIBRARY)
    assert check_plugin_library(None).state == "ok"
    missing = check_plugin_library(Path("other.so"))
    assert (missing.state, missing.fix) == ("missing", "acm-export build-plugin -o other.so")


def test_files_that_are_not_the_library(around: Surroundings) -> None:
    text = around.folder / "text.so"
    text.write_text("not a library")
    assert "is not a shared library" in check_plugin_library(text).found
    assert (
        check_plugin_library(text).fix == "acm-export build-plugin"
    )  # the file is the user's, and may be something else
    assert check_plugin_library(around.folder).state == "wrong"  # a folder
    pipe = around.folder / "pipe.so"
    os.mkfifo(pipe)
    assert check_plugin_library(pipe).found == f"{pipe} is not a regular file"
    other = around.library("other.so", "int answer() { return 42; }")
    assert "is not the plugin library" in check_plugin_library(other).found
    for built_for, lacking in (("10.3.0", "getCreators, setLoggerFinder"), ("8.6.1", "getPluginCreators, setLogger")):
        code = f'extern "C" const char* acm_built_for_tensorrt() {{ return "{built_for}"; }}'
        assert f"entry points: {lacking}" in check_plugin_library(around.library("some.so", code)).found
    old = around.library("old.so", 'extern "C" const char* acm_built_for_tensorrt() { return "8.5.3"; }')
    assert check_plugin_library(old).found == f"{old}, built for TensorRT 8.5.3"
    broken = around.folder / "broken.so"
    broken.write_bytes(other.read_bytes()[:200])
    assert "cannot be loaded" in check_plugin_library(broken).found


def test_a_library_for_another_processor_is_named(around: Surroundings) -> None:
    mine = platform.machine()
    theirs = {"x86_64": ("aarch64", 183), "aarch64": ("x86_64", 62)}.get(mine)
    if theirs is None:
        pytest.skip(f"no ELF number is known for {mine}")
    path = around.folder / "lib.so"
    path.write_bytes(b"\x7fELF" + bytes(14) + theirs[1].to_bytes(2, "little"))
    assert check_plugin_library(path).found.endswith(f"is for {theirs[0]}, this machine is {mine}")


def test_a_library_that_crashes_when_loaded_is_wrong(around: Surroundings) -> None:
    path = around.library("lib.so", "__attribute__((constructor)) static void load() { __builtin_trap(); }")
    finding = check_plugin_library(path)
    assert finding.state == "wrong"
    assert "cannot be loaded: crashed with SIG" in finding.found


@pytest.mark.parametrize(
    ("load", "state", "text"),
    [
        (
            "self.all_creators = creators(); return 1",
            "ok",
            "GatedLearners, QuantizedGatedLearners, GLUGatedLearners, QuantizedGLUGatedLearners, version 1, once each",
        ),
        ("self.all_creators = 2 * creators(); return 1", "wrong", "; expected [{"),
        ("self.all_creators = creators()[1:]; return 1", "wrong", "it lists [{'name': 'GLUGatedLearners', "),
        ("self.all_creators = creators()", "wrong", "load_library returned no handle"),
        ("print('GatedLearners: built for TensorRT 10', file=sys.stderr)", "wrong", "built for TensorRT 10"),
        ("import ctypes; ctypes.string_at(0)", "wrong", "crashed with SIGSEGV"),
    ],
    ids=["good", "twice", "from an earlier acm-export", "no handle", "refused", "crash"],
)
def test_the_registry_must_list_the_plugin(around: Surroundings, load: str, state: str, text: str) -> None:
    around.package("tensorrt", "10.13.0", TENSORRT_10.format(load=load))
    finding = plugin.registry(around.folder / "lib.so", query_tensorrt(), LOADED)
    assert finding.state == state
    assert text in finding.found


def test_before_8_6_libraries_are_loaded_by_dlopen(around: Surroundings) -> None:
    around.package("tensorrt", "8.5.3", TENSORRT_8)
    found = query_tensorrt()
    assert plugin.registry(around.library("lib.so", LIBRARY), found, LOADED).state == "ok"
    assert "cannot open" in plugin.registry(around.folder / "none.so", found, LOADED).found


def test_the_registry_needs_a_library_and_a_tensorrt() -> None:
    found = TensorRT("tensorrt", "10.3.0")
    missing = Finding("plugin library", "missing", "none", "the command that gets one")
    assert plugin.registry(None, found, missing) == replace(
        missing, name="plugin registry", found="no plugin library to load"
    )
    assert plugin.registry(None, TensorRT(None), LOADED).state == "missing"
