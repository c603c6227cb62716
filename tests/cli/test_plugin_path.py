"""``acm-export plugin-path``: which library it prints, how it finds TensorRT, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from doctor_surroundings import Surroundings
from prebuilt_files import HEADERS, SERIES, Files, write_files

import acm_export
from acm_export.cli import main
from acm_export.machine import tensorrt as machine

if TYPE_CHECKING:
    from pathlib import Path

CHOICES = "choose one of 8.5, 8.6, 10, 11, as in: acm-export plugin-path --tensorrt "


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """A machine without TensorRT."""
    monkeypatch.setattr(machine, "MODULES", ("fake_tensorrt",))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    return Surroundings(tmp_path, monkeypatch)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = write_files(tmp_path)
    made.install(monkeypatch)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plugin-path", *arguments])


def printed(*arguments: str) -> bytes:
    """Content of the library whose path is all that is printed."""
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    with open(result.stdout.removesuffix("\n"), "rb") as library:  # noqa: PTH123
        return library.read()


@pytest.mark.parametrize(
    ("version", "series"),
    [("8.5", "8.5"), ("8.6.1", "8.6"), ("10", "10"), ("10.3", "10"), ("10.16.1.11", "10"), ("11", "11")],
)
def test_the_library_for_a_version(files: Files, version: str, series: str) -> None:
    assert printed("--tensorrt", version) == files.whole[series]


@pytest.mark.parametrize("version", ["7", "8", "8.4", "9", "10.2", "12", "ten", "10.x", "v10", ""])
@pytest.mark.usefixtures("files")
def test_versions_without_a_library_are_refused(version: str) -> None:
    result = run("--tensorrt", version)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"--tensorrt is {version!r}; there are prebuilt libraries for" in result.stderr
    assert CHOICES in result.stderr


def test_json_and_python_give_the_same(files: Files) -> None:
    found = json.loads(run("--tensorrt", "10", "--json").stdout)
    whole = files.whole["10"]
    assert found.pop("warnings", []) == []
    assert {key: found[key] for key in ("bytes", "sha256", "tensorrt", "architectures")} == {
        "bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
        "tensorrt": {"series": "10", "headers": HEADERS["10"]},
        "architectures": ["sm_80", "sm_87"],
    }
    result = acm_export.plugin_path("10.3")
    assert os.fspath(result) == str(result.library) == found["library"]


def test_the_tensorrt_of_python_decides(files: Files, around: Surroundings) -> None:
    around.package("fake_tensorrt", "8.6.1.post1")
    around.library("libnvinfer.so.10", 'extern "C" int getInferLibVersion() { return 100300; }')
    assert printed() == files.whole["8.6"]


@pytest.mark.parametrize(
    ("name", "number", "series"),
    [("libnvinfer.so.8", 8502, "8.5"), ("libnvinfer.so.10", 101300, "10"), ("libnvinfer.so.11", 110400, "11")],
)
def test_else_the_library_of_the_system(
    files: Files, around: Surroundings, name: str, number: int, series: str
) -> None:
    around.library(name, f'extern "C" int getInferLibVersion() {{ return {number}; }}')
    assert printed() == files.whole[series]


@pytest.mark.usefixtures("files")
def test_two_system_libraries_need_a_choice(around: Surroundings) -> None:
    for major in (10, 11):
        number = major * 10_000 + 400
        around.library(f"libnvinfer.so.{major}", f'extern "C" int getInferLibVersion() {{ return {number}; }}')
    result = run()
    assert result.exit_code == 1
    assert "TensorRT 11.4.0 and 10.4.0 are installed" in result.stderr
    assert f"{CHOICES}11" in result.stderr


@pytest.mark.parametrize("version", ["8.4.1", "10.2.0", "12.0.0"])
@pytest.mark.usefixtures("files")
def test_an_installed_tensorrt_without_a_library(around: Surroundings, version: str) -> None:
    around.package("fake_tensorrt", version)
    result = run()
    assert result.exit_code == 1
    assert f"Python's fake_tensorrt is TensorRT {version}; there are prebuilt libraries for" in result.stderr
    assert "acm-export build-plugin" in result.stderr


@pytest.mark.usefixtures("files")
def test_no_tensorrt_lists_the_choices(around: Surroundings) -> None:
    result = run()
    assert result.exit_code == 1
    assert "no TensorRT found, neither as a Python package nor as libnvinfer.so\n" in result.stderr
    assert CHOICES in result.stderr
    (around.folder / "libnvinfer.so.10").write_text("not a library")
    result = run()
    assert "libnvinfer.so: libnvinfer.so.10: " in result.stderr
    around.package("fake_tensorrt", "10.3.0", "raise ImportError('libcudart.so.12 is missing')")
    assert "libnvinfer.so: ImportError: libcudart.so.12 is missing" in run().stderr


def test_a_checkout_names_build_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_export.plugins.tensorrt.prebuilt.libraries_folder", lambda: tmp_path / "none")
    for arguments in ((), ("--tensorrt", "10")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "this installation has no prebuilt plugin libraries" in result.stderr
        assert "acm-export build-plugin" in result.stderr


def test_a_wheel_that_lacks_one(files: Files) -> None:
    index = json.loads((files.libraries / "index.json").read_text())
    files.change_index(libraries=[row for row in index["libraries"] if row["tensorrt"] != "11"])
    result = run("--tensorrt", "11")
    assert result.exit_code == 1
    assert f"no prebuilt plugin library for TensorRT 11, only for {', '.join(SERIES[:-1])}" in result.stderr
