"""Platform wheels: their content, tags and limits, and where TensorRT's headers come from."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.wheels import headers
from acm_export.plugins.tensorrt.wheels import repack as repacking
from acm_export.plugins.tensorrt.wheels.cross_compile import find_cubins
from acm_export.plugins.tensorrt.wheels.headers import PINS, Pin, header_sets
from acm_export.plugins.tensorrt.wheels.repack import repack

if TYPE_CHECKING:
    from pathlib import Path

TAG = "manylinux_2_28_aarch64"
PURE = {
    "acm_export/__init__.py": b"",
    "acm_export/plugins/kernels/pack/kernels.bin": b"all kernels",
    "acm_export/plugins/kernels/pack/old.bin": b"not in the new pack",
    "acm_export-1.0.dist-info/METADATA": b"Name: acm-export\n",
    "acm_export-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n\n",
    "acm_export-1.0.dist-info/RECORD": b"nonsense",
}


@pytest.fixture
def pure(tmp_path: Path) -> Path:
    path = tmp_path / "acm_export-1.0-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        for name, content in PURE.items():
            wheel.writestr(name, content)
    for name, content in {"pack/kernels.bin": b"some", "pack/table.json": b"{}", "libraries/index.json": b"[]"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return path


def test_a_platform_wheel_is_the_pure_one_with_other_kernels_and_the_libraries(pure: Path, tmp_path: Path) -> None:
    output = repack(pure, tmp_path / "pack", tmp_path / "libraries", TAG)
    assert output == tmp_path / f"acm_export-1.0-py3-none-{TAG}.whl"
    with ZipFile(output) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    kernels, libraries = "acm_export/plugins/kernels/pack", "acm_export/plugins/tensorrt/libraries"
    info = "acm_export-1.0.dist-info"
    assert list(files)[-1] == f"{info}/RECORD"
    record = files.pop(f"{info}/RECORD").decode()
    assert files == {
        "acm_export/__init__.py": b"",
        f"{kernels}/kernels.bin": b"some",
        f"{kernels}/table.json": b"{}",
        f"{libraries}/index.json": b"[]",
        f"{info}/METADATA": b"Name: acm-export\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-{TAG}\n".encode(),
    }
    rows = {name: (digest, size) for name, digest, size in csv.reader(record.splitlines())}
    assert rows.pop(f"{info}/RECORD") == ("", "")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert rows.pop(name) == (f"sha256={digest}", str(len(content)))
    assert rows == {}


def test_the_same_content_gives_the_same_wheel(pure: Path, tmp_path: Path) -> None:
    first = repack(pure, tmp_path / "pack", tmp_path / "libraries", TAG).read_bytes()
    for path in tmp_path.rglob("*"):
        path.touch()
    assert repack(pure, tmp_path / "pack", tmp_path / "libraries", TAG).read_bytes() == first


def test_a_wheel_that_is_too_large_is_not_written(pure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repacking, "MOST_BYTES", 100)
    with pytest.raises(PluginError, match="MB are allowed"):
        repack(pure, tmp_path / "pack", tmp_path / "libraries", TAG)
    assert list(tmp_path.glob("*.whl")) == [pure]


def test_only_a_pure_wheel_is_taken(pure: Path, tmp_path: Path) -> None:
    other = repack(pure, tmp_path / "pack", tmp_path / "libraries", TAG)
    with pytest.raises(PluginError, match="is not a pure wheel"):
        repack(other, tmp_path / "pack", tmp_path / "libraries", TAG)


def test_the_cubins_must_be_in_a_library_exactly_once(tmp_path: Path) -> None:
    assert find_cubins(b"head" + b"cubins" + b"tail", b"cubins", tmp_path) == 4
    for content, cubins in ((b"headtail", b"cubins"), (b"cubins cubins", b"cubins"), (b"head", b"")):
        with pytest.raises(PluginError, match="exactly once"):
            find_cubins(content, cubins, tmp_path)


def write_headers(folder: Path, major: int, minor: int, patch: int) -> Path:
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "NvInferRuntime.h").touch()
    numbers = {"MAJOR": major, "MINOR": minor, "PATCH": patch}
    lines = [f"#define NV_TENSORRT_{part} {number}\n" for part, number in numbers.items()]
    (folder / "include" / "NvInferVersion.h").write_text("".join(lines))
    return folder


def test_the_oldest_given_headers_are_taken(tmp_path: Path) -> None:
    versions = ((10, 13, 0), (8, 6, 1), (10, 3, 0), (8, 5, 3), (11, 1, 0), (10, 16, 0))
    folders = [write_headers(tmp_path / str(index), *version) for index, version in enumerate(versions)]
    found = header_sets(folders, tmp_path / "fetched", "no repository")
    assert {series: each.version_text for series, each in found.items()} == {
        "8.5": "8.5.3",
        "8.6": "8.6.1",
        "10": "10.3.0",
        "11": "11.1.0",
    }
    assert not (tmp_path / "fetched").exists()


def test_headers_that_no_library_is_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"has headers of TensorRT 10\.2\.0"):
        header_sets([write_headers(tmp_path / "trt", 10, 2, 0)], tmp_path / "fetched", "no repository")


def test_missing_headers_are_fetched_at_the_pinned_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = write_headers(tmp_path / "repository", 11, 0, 0)
    (repository / "README").write_text("not a header")

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@b")
        command = ["git", "-C", str(repository), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "headers")
    pinned = git("rev-parse", "HEAD")
    (repository / "include" / "NvInferVersion.h").write_text("")
    git("commit", "--quiet", "-am", "newer")
    given = [write_headers(tmp_path / text, *map(int, text.split("."))) for text in ("8.5.3", "8.6.1", "10.3.0")]
    monkeypatch.setitem(PINS, "11", Pin((11, 0, 0), pinned))
    found = header_sets(given, tmp_path / "fetched", repository.as_uri())
    assert found["11"].folder == tmp_path / "fetched" / "11" / "include"
    assert found["11"].version == (11, 0, 0)
    monkeypatch.setitem(PINS, "11", Pin((11, 1, 0), pinned))
    with pytest.raises(PluginError, match=r"has headers of TensorRT 11\.0\.0, expected 11\.1\.0"):
        header_sets(given, tmp_path / "again", repository.as_uri())
    with pytest.raises(PluginError, match="TENSORRT_ROOT has no headers of TensorRT 11, and fetching them") as caught:
        header_sets(given, tmp_path / "nowhere", (tmp_path / "no repository").as_uri())
    assert "8.5, 8.6, 10, 11 in TENSORRT_ROOT" in str(caught.value.hint)


def test_pins_are_whole_commits_of_the_oldest_supported_releases() -> None:
    assert list(PINS) == list(headers.SERIES)
    assert all(len(pin.commit) == 40 for pin in PINS.values())
