"""``acm-export build-plugin``: headers, output, cache and errors."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from plugin_build import each_header_set, need_tools

from acm_export.base.errors import PluginError
from acm_export.cli import main
from acm_export.plugins.tensorrt import build as building
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytest_plugins = ["plugin_fixtures"]

VERSION_8 = "#define NV_TENSORRT_MAJOR 8 //!< major\n#define NV_TENSORRT_MINOR 5\n#define NV_TENSORRT_PATCH 3\n"
VERSION_11 = """\
#define TRT_MAJOR_ENTERPRISE 11
#define TRT_MINOR_ENTERPRISE 1
#define TRT_PATCH_ENTERPRISE 0
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.
#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE
#define NV_TENSORRT_PATCH TRT_PATCH_ENTERPRISE
"""


def write_headers(root: Path, version: str) -> Path:
    """A TensorRT that has a version and nothing else."""
    (root / "include").mkdir(parents=True)
    (root / "include" / "NvInferRuntime.h").write_text("#error fake\n")
    (root / "include" / "NvInferVersion.h").write_text(version)
    (root / "include" / "cuda_runtime_api.h").touch()
    return root


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["build-plugin", *map(str, arguments)])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("content", "version", "interface"),
    [
        (VERSION_8, (8, 5, 3), "IPluginV2DynamicExt"),
        (VERSION_11, (11, 1, 0), "IPluginV3"),
    ],
)
def test_the_version_of_headers_is_read(
    tmp_path: Path, content: str, version: tuple[int, int, int], interface: str
) -> None:
    for root in (write_headers(tmp_path / "trt", content), tmp_path / "trt" / "include"):
        headers = tensorrt_headers(root)
        assert headers.version == version
        assert headers.interface == interface
        assert headers.folder == tmp_path / "trt" / "include"


def test_the_environment_names_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (write_headers(tmp_path / name, VERSION_11) for name in "ab")
    monkeypatch.setenv("TENSORRT_ROOT", f"{first}:{second}")
    monkeypatch.setenv("CUDA_HOME", str(second))
    assert tensorrt_headers().folder == first / "include"
    assert cuda_headers() == second / "include"


def test_no_headers_lists_the_searched_folders(tmp_path: Path) -> None:
    result = run("--tensorrt-root", tmp_path)
    assert result.exit_code == 1
    assert f"no TensorRT headers (NvInferRuntime.h) in {tmp_path / 'include'}" in result.stderr
    assert "--tensorrt-root" in result.stderr


def test_no_cuda_headers_lists_the_searched_folders(tmp_path: Path) -> None:
    root = write_headers(tmp_path / "trt", VERSION_11)
    (tmp_path / "cuda").mkdir()
    result = run("--tensorrt-root", root, "--cuda-root", tmp_path / "cuda")
    assert result.exit_code == 1
    assert f"no CUDA headers (cuda_runtime_api.h) in {tmp_path / 'cuda' / 'include'}" in result.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (VERSION_8.replace("MINOR 5", "MINOR 4"), "are for TensorRT 8.4.3; 8.5 is the oldest supported"),
        ("", "defines no TensorRT version: NV_TENSORRT_MAJOR is ''"),
        (VERSION_11.replace("PATCH TRT", "PATCH X"), "defines no TensorRT version: NV_TENSORRT_PATCH is 'X"),
    ],
)
def test_headers_that_are_too_old_or_unreadable_are_rejected(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(PluginError, match=r".") as caught:
        tensorrt_headers(write_headers(tmp_path, content))
    assert reason in str(caught.value)


def wanted(tmp_path: Path) -> list[str | Path]:
    root = write_headers(tmp_path / "trt", VERSION_11)
    return ["--tensorrt-root", root, "--cuda-root", root]


def test_no_pack_is_an_error(tmp_path: Path) -> None:
    result = run(*wanted(tmp_path), "--pack", tmp_path / "nothing", "-o", tmp_path / "lib.so")
    assert result.exit_code == 2
    assert f"there is no folder {tmp_path / 'nothing'}" in result.stderr


def test_a_stale_pack_is_an_error(tmp_path: Path, fake_pack: Path) -> None:
    stale = tmp_path / "stale"
    stale.mkdir()
    table = json.loads((fake_pack / "table.json").read_text())
    (stale / "table.json").write_text(json.dumps(table | {"source_digest": "0" * 64}))
    (stale / "kernels.bin").write_bytes((fake_pack / "kernels.bin").read_bytes())
    result = run(*wanted(tmp_path), "--pack", stale, "-o", tmp_path / "lib.so")
    assert result.exit_code == 1
    assert "is stale: compiled from sources 000000000000" in result.stderr


@pytest.mark.parametrize(("found", "message"), [(None, "no C++ compiler"), ("c++", "cmake is not on the PATH")])
def test_missing_tools_are_an_error(
    tmp_path: Path, fake_pack: Path, monkeypatch: pytest.MonkeyPatch, found: str | None, message: str
) -> None:
    monkeypatch.setattr(building.shutil, "which", lambda name: found if name != "cmake" else None)
    result = run(*wanted(tmp_path), "--pack", fake_pack, "-o", tmp_path / "lib.so")
    assert result.exit_code == 1
    assert message in result.stderr


def test_an_output_that_cannot_be_written_costs_no_time(tmp_path: Path, fake_pack: Path, cache: Path) -> None:
    need_tools()
    for output, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "lib.so", "does not exist")):
        result = run(*wanted(tmp_path / output.name), "--pack", fake_pack, "-o", output)
        assert result.exit_code == 1
        assert message in result.stderr
    assert not cache.exists()


@pytest.mark.slow
def test_a_failed_compilation_shows_the_error_and_keeps_the_output(tmp_path: Path, fake_pack: Path) -> None:
    need_tools()
    output = tmp_path / "lib.so"
    output.write_text("before")
    result = run(*wanted(tmp_path), "--pack", fake_pack, "-o", output)
    assert result.exit_code == 1
    assert "compiling the plugin failed" in result.stderr
    assert "#error fake" in result.stderr
    assert output.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "lib.so", "trt"]


@each_header_set()
def test_builds_once_and_then_takes_the_cache(
    tmp_path: Path, fake_pack: Path, headers: TensorRTHeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_tools()
    arguments = ["--tensorrt-root", headers.folder, "--pack", fake_pack, "--json", "-o"]
    first = run(*arguments, tmp_path / "first.so")
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["cached"] is False
    assert report["tensorrt"] == {
        "version": headers.version_text,
        "headers": str(headers.folder),
        "interface": headers.interface,
    }
    assert ctypes.CDLL(str(tmp_path / "first.so"))
    monkeypatch.setattr(building, "_run", lambda *_: pytest.fail("compiled again"))
    second = run(*arguments, tmp_path / "second.so")
    assert json.loads(second.stdout)["cached"] is True
    assert (tmp_path / "second.so").read_bytes() == (tmp_path / "first.so").read_bytes()
