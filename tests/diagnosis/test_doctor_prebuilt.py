"""The doctor where a wheel brings plugin libraries: no compiler is missed, and the prebuilt library is checked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from doctor_surroundings import LIBRARY, Surroundings
from prebuilt_files import Files, write_files

from acm_export.diagnosis.examine import doctor
from acm_export.diagnosis.prebuilt import check_prebuilt
from acm_export.machine.finding import Finding
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.machine.tensorrt import SystemTensorRT, TensorRT

MISSING = Finding("compiler", "missing", "no C++ compiler", "apt install g++ cmake")
TENSORRT_10 = TensorRT("tensorrt", "10.3.0")


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("acm_export.diagnosis.prebuilt.query_system_tensorrt", lambda: SystemTensorRT(()))
    return Surroundings(tmp_path, monkeypatch)


@pytest.fixture
def files(around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A wheel whose library for TensorRT 10 can be loaded."""
    loadable = around.library("loadable.so", LIBRARY).read_bytes()
    made = write_files(tmp_path, {"8.6": b"head", "10": loadable})
    made.install(monkeypatch)
    return made


@pytest.mark.usefixtures("files")
def test_the_prebuilt_library_is_checked_and_no_compiler_is_missed(around: Surroundings) -> None:
    check = check_prebuilt(TENSORRT_10)
    assert check.finding == Finding("prebuilt plugin", "ok", "for TensorRT 8.6, 10; kernels for sm_80, sm_87")
    found = check.without_compiling(MISSING)
    assert (found.state, found.fix) == ("ok", None)
    assert found.found == "missing; not needed, because the plugin is prebuilt"
    with check.check_library(None) as (path, finding):
        assert path is not None
        assert path.is_file()
        assert (finding.state, finding.found) == ("ok", "prebuilt, built for TensorRT 10.3.0")
    assert not path.exists()
    assert not (around.folder / "cache").exists()


@pytest.mark.usefixtures("files")
def test_a_named_library_and_one_in_the_working_folder_come_first(around: Surroundings) -> None:
    check = check_prebuilt(TENSORRT_10)
    with check.check_library(Path("other.so")) as (path, finding):
        assert (path, finding) == (Path("other.so"), check_plugin_library(Path("other.so")))
    around.library("libacm_gated_learners.so", LIBRARY)
    with check.check_library(None) as (path, finding):
        assert (path, finding) == (None, check_plugin_library(None))


@pytest.mark.usefixtures("files")
def test_without_a_tensorrt_the_fix_is_to_choose_one() -> None:
    with check_prebuilt(TensorRT(None)).check_library(None) as (path, finding):
        assert path is None
        assert (finding.state, finding.fix) == ("missing", "acm-export plugin-path --tensorrt 10")


@pytest.mark.usefixtures("files")
def test_without_a_temporary_folder_the_fix_is_to_name_one(around: Surroundings) -> None:
    around.monkeypatch.setattr(tempfile, "tempdir", None)
    around.monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(around.folder / "none")])
    with check_prebuilt(TENSORRT_10).check_library(None) as (path, finding):
        assert path is None
        assert finding.state == "missing"
        assert finding.found.startswith("the prebuilt one cannot be tried: No usable temporary directory found")
        assert finding.fix == "export TMPDIR=FOLDER"


@pytest.mark.usefixtures("files")
def test_the_doctor_without_a_tensorrt_names_one_fix_for_the_plugin(around: Surroundings) -> None:
    around.monkeypatch.setattr("acm_export.machine.tensorrt.MODULES", ("fake_tensorrt",))
    found = {finding.name: finding for finding in doctor().findings}
    assert found["plugin library"].fix == "acm-export plugin-path --tensorrt 10"
    assert found["plugin registry"].fix == found["plugin library"].fix


@pytest.mark.usefixtures("files")
def test_an_installed_tensorrt_without_a_prebuilt_library() -> None:
    check = check_prebuilt(TensorRT("tensorrt", "11.0.0"))
    assert (check.finding.state, check.finding.fix) == ("missing", "acm-export build-plugin")
    assert check.finding.found.endswith("; TensorRT 11.0.0 is installed")
    assert check.without_compiling(MISSING) is MISSING


@pytest.mark.usefixtures("files")
def test_the_system_decides_without_a_tensorrt_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_prebuilt(TensorRT(None)).replaces_compiling  # no TensorRT at all
    for version, state in (((10, 3, 0), "ok"), ((11, 0, 0), "missing")):
        found = SystemTensorRT((version,))
        monkeypatch.setattr("acm_export.diagnosis.prebuilt.query_system_tensorrt", lambda found=found: found)
        assert check_prebuilt(TensorRT(None)).finding.state == state


def test_a_library_that_does_not_match_the_pack_is_wrong(files: Files) -> None:
    shutil.rmtree(files.pack)
    check = check_prebuilt(TENSORRT_10)
    assert check.finding.state == "wrong"
    assert "needs the kernel pack of its wheel" in check.finding.found
    assert check.without_compiling(MISSING) is MISSING


def test_a_checkout_has_none(around: Surroundings) -> None:
    around.monkeypatch.setattr("acm_export.plugins.tensorrt.prebuilt.libraries_folder", lambda: around.folder / "none")
    check = check_prebuilt(TENSORRT_10)
    assert check.finding.state == "missing"
    assert "acm-export build-plugin" in str(check.finding.fix)
    with check.check_library(None) as (path, finding):
        assert (path, finding.state) == (None, "missing")
