"""Putting prebuilt libraries together: the bytes, the cache, and every file that is missing or wrong."""

from __future__ import annotations

import json
import platform
import shutil
import zlib
from typing import TYPE_CHECKING

import pytest
from plugin_pack import write_fake_pack
from prebuilt_files import SERIES, Files, write_files

from acm_export.base.errors import OutputError, PluginError
from acm_export.plugins.tensorrt import prebuilt as joining
from acm_export.plugins.tensorrt.prebuilt import (
    Prebuilt,
    copy_prebuilt,
    join,
    libraries_folder,
    read_prebuilt,
    series_of,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    assert not cache.exists()
    made = write_files(tmp_path)
    made.install(monkeypatch)
    return made


def read() -> Prebuilt:
    found = read_prebuilt()
    assert found is not None
    return found


def joined(series: str = "10") -> Path:
    library = read().library(series)
    assert library is not None
    return join(read(), library)


def contents(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refused(cache: Path, series: str = "10") -> str:
    """The message of an error that says what to do and leaves nothing in the cache."""
    with pytest.raises(PluginError) as caught:
        joined(series)
    assert "pip install --force-reinstall" in str(caught.value.hint)
    assert contents(cache) == []
    return str(caught.value)


def test_each_library_is_put_together_once(files: Files, cache: Path) -> None:
    for series in SERIES:
        path = joined(series)
        assert path.read_bytes() == files.whole[series]
        assert path.name == "libacm_gated_learners.so"
        assert path.is_relative_to(cache / "acm-export")
    assert contents(cache) == ["libacm_gated_learners.so"] * len(SERIES)


def test_the_second_call_needs_neither_pack_nor_part(files: Files) -> None:
    first = joined()
    modified = first.stat().st_mtime_ns
    shutil.rmtree(files.pack)
    (files.libraries / "10.zlib").unlink()
    assert joined() == first
    assert first.stat().st_mtime_ns == modified


@pytest.mark.parametrize("content", [b"", b"another library", None])
def test_a_wrong_library_in_the_cache_is_replaced(files: Files, content: bytes | None) -> None:
    path = joined()
    whole = files.whole["10"]
    path.write_bytes(whole[:-1] + b"?" if content is None else content)  # None: of the right size
    assert joined() == path
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("files")
def test_an_interrupted_write_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(joining, "move_into_place", interrupt)
        with pytest.raises(KeyboardInterrupt):
            joined()
    assert contents(cache) == []
    assert joined().is_file()


def test_a_cache_that_cannot_be_written(files: Files, cache: Path) -> None:
    assert files
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot create the cache folder") as caught:
        joined()
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_pack_with_other_cubins(files: Files, cache: Path) -> None:
    shutil.rmtree(files.pack)
    write_fake_pack(files.pack, ("sm_80", "sm_90"))
    assert "is not the one of the prebuilt plugin: its cubins have the SHA-256" in refused(cache)


def test_a_missing_pack(files: Files, cache: Path) -> None:
    shutil.rmtree(files.pack)
    assert "needs the kernel pack of its wheel: no kernel pack" in refused(cache)


def test_a_pack_of_another_version(files: Files, cache: Path) -> None:
    table = json.loads((files.pack / "table.json").read_text())
    (files.pack / "table.json").write_text(json.dumps(table | {"source_digest": "0" * 64}))
    assert "is stale" in refused(cache)


def test_a_part_that_is_missing_or_damaged(files: Files, cache: Path) -> None:
    part = files.libraries / "10.zlib"
    for content, reason in (
        (None, "cannot be read"),
        (b"no zlib", "cannot be read"),
        (part.read_bytes()[:-5], "cannot be read"),
        (zlib.compress(b"head for TensorRT 8.6tail for 10"), "is damaged"),
        (zlib.compress(b"short"), "is damaged"),
    ):
        part.unlink(missing_ok=True)
        if content is not None:
            part.write_bytes(content)
        assert reason in refused(cache)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_a_broken_index(files: Files, text: str) -> None:
    (files.libraries / "index.json").write_text(text)
    with pytest.raises(PluginError, match=r"index\.json (cannot be read|has schema 2, expected 1)"):
        read_prebuilt()


def test_libraries_for_another_processor(files: Files) -> None:
    files.change_index(platform="riscv64")
    with pytest.raises(PluginError, match=f"are for riscv64, this machine is {platform.machine()}"):
        read_prebuilt()


def test_a_checkout_has_none(tmp_path: Path) -> None:
    assert libraries_folder().name == "libraries"
    assert read_prebuilt(tmp_path / "libraries") is None


@pytest.mark.parametrize(
    ("version", "series"),
    [
        ((8, 5), "8.5"),
        ((8, 5, 3, 1), "8.5"),
        ((8, 6), "8.6"),
        ((10,), "10"),
        ((10, 3), "10"),
        ((10, 16, 1), "10"),
        ((11,), "11"),
        ((11, 0), "11"),
        ((11, 4), "11"),
        ((), None),
        ((7,), None),
        ((8,), None),
        ((8, 4), None),
        ((9, 3), None),
        ((10, 2), None),
        ((12, 0), None),
    ],
)
def test_the_series_of_a_version(version: tuple[int, ...], series: str | None) -> None:
    assert series_of(version) == series


def test_a_copy_is_written_where_there_is_a_library(files: Files, tmp_path: Path) -> None:
    output = tmp_path / "beside.so"
    assert copy_prebuilt((10, 13), output)
    assert output.read_bytes() == files.whole["10"]
    output.unlink()
    assert not copy_prebuilt((10, 2), output)
    (files.libraries / "index.json").unlink()
    assert not copy_prebuilt((10, 13), output)
    assert not output.exists()
