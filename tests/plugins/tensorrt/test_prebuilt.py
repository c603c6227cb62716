"""Putting prebuilt libraries together: the bytes, the cache, and every file that is missing or wrong."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from plugin_pack import write_fake_pack
from prebuilt_files import SERIES, Files, write_files

from acm_export.base.errors import OutputError, PluginError
from acm_export.plugins.tensorrt import prebuilt as joining
from acm_export.plugins.tensorrt.cache import cache_folder
from acm_export.plugins.tensorrt.prebuilt import (
    Prebuilt,
    content_for,
    join,
    read_prebuilt,
    series_of,
)


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


@pytest.mark.usefixtures("files")
def test_a_cache_that_cannot_be_written(cache: Path) -> None:
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
        (part.read_bytes()[:-5], "is damaged"),
        (zlib.compress(b"head for TensorRT 8.6tail for 10"), "is damaged"),
        (zlib.compress(b"short"), "is damaged"),
    ):
        part.unlink(missing_ok=True)
        if content is not None:
            part.write_bytes(content)
        assert reason in refused(cache)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff", '{"schema": 1}'])
def test_an_index_without_its_fields(files: Files, text: str) -> None:
    (files.libraries / "index.json").write_text(text, encoding="latin-1")
    with pytest.raises(PluginError, match=r"index\.json cannot be read") as caught:
        read_prebuilt()
    assert "pip install --force-reinstall" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema is 2; it must be 1"),
        ({"platform": 1}, "platform is 1; it must be text"),
        ({"architectures": "sm_80"}, 'architectures is "sm_80"; it must be a list of texts'),
        ({"architectures": [80]}, "architectures is [80]; it must be a list of texts"),
        ({"cubins_sha256": "abc"}, 'cubins_sha256 is "abc"; it must be a SHA-256 in hex'),
        ({"libraries": {}}, "libraries is {}; it must be a list"),
        ({"libraries": [1]}, "libraries[0] is 1; it must be an object"),
        ({"more": 1}, "more is not a field"),
    ],
)
def test_an_index_with_an_invalid_field(files: Files, changes: dict[str, object], reason: str) -> None:
    files.change_index(**changes)
    with pytest.raises(PluginError) as caught:
        read_prebuilt()
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"tensorrt": "9"},
        {"tensorrt": 10},
        {"headers": None},
        {"file": "/etc/passwd"},
        {"file": "../pack/kernels.bin"},
        {"file": "pack/kernels.bin"},
        {"file": ".."},
        {"file": "."},
        {"file": ""},
        {"file": "a\0b"},
        {"offset": -1},
        {"offset": "3"},
        {"size": 0},
        {"size": 1.5},
        {"sha256": "../../../etc/cron.d"},
        {"sha256": None},
    ],
)
def test_an_index_with_an_invalid_library(files: Files, cache: Path, changes: dict[str, object]) -> None:
    rows = json.loads((files.libraries / "index.json").read_text())["libraries"]
    files.change_index(libraries=[rows[0], rows[1] | changes])
    ((name, _),) = changes.items()
    with pytest.raises(PluginError) as caught:
        joined()
    assert f"libraries[1].{name} is " in str(caught.value)
    assert contents(cache) == []


def test_a_part_that_decompresses_to_more_than_the_library_is_not_read_to_its_end(files: Files, cache: Path) -> None:
    (files.libraries / "10.zlib").write_bytes(zlib.compress(bytes(1 << 28)))
    tracemalloc.start()
    assert "is damaged" in refused(cache)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_libraries_for_another_processor(files: Files) -> None:
    files.change_index(platform="riscv64")
    with pytest.raises(PluginError, match=f"are for riscv64, this machine is {platform.machine()}"):
        read_prebuilt()


def test_a_checkout_has_none(files: Files) -> None:
    shutil.rmtree(files.libraries)
    assert read_prebuilt() is None


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


def test_the_content_for_a_tensorrt_needs_no_cache(files: Files, cache: Path) -> None:
    assert content_for((10, 13)) == files.whole["10"]
    assert content_for((10, 2)) is None
    assert not cache.exists()
    (files.libraries / "index.json").unlink()
    assert content_for((10, 13)) is None


JOIN_WITH_ANOTHER = """
import sys, time
from pathlib import Path
from acm_export.plugins.tensorrt import prebuilt
libraries, pack, own, other = map(Path, sys.argv[1:])
prebuilt.libraries_folder, prebuilt.default_folder = lambda: libraries, lambda: pack
move = prebuilt.move_into_place
def move_together(*paths):  # both have found no library, and have written one
    own.touch()
    while not other.exists():
        time.sleep(0.001)
    move(*paths)
prebuilt.move_into_place = move_together
found = prebuilt.read_prebuilt()
print(prebuilt.join(found, found.library("10")))
"""


def test_two_processes_that_join_at_once_both_succeed(files: Files, cache: Path, tmp_path: Path) -> None:
    ready = [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-c", JOIN_WITH_ANOTHER, str(files.libraries), str(files.pack)]
    running = [
        subprocess.Popen([*command, str(own), str(other)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for own, other in (ready, reversed(ready))
    ]
    results = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], results
    (path,) = {stdout.strip() for stdout, _ in results}
    assert Path(path).read_bytes() == files.whole["10"]
    assert contents(cache) == ["libacm_gated_learners.so"]


def test_a_relative_cache_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("rel", "./rel", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder("digest") == tmp_path / ".cache" / "acm-export" / "plugins" / "digest"
