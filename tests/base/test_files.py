"""Outputs appear complete or not at all, and a replaced file keeps its permissions and links."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_models import tiny_vit

from acm_export.base.errors import OutputError, UsageError
from acm_export.base.files import (
    check_apart,
    check_input,
    check_suffix,
    check_writable,
    move_folder_into_place,
    move_into_place,
    move_together_into_place,
    sha256_of,
    staging_folder,
    write_text,
)
from acm_export.checkpoints import save_checkpoint
from acm_export.onnx_file.model_file import write_model

FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_with(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_replaced_atomically(old: bytes | None, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    if old is not None:
        target.write_bytes(old)
    with staging_folder(target) as staging:
        (staging / "part").write_bytes(b"new")
        assert staging.parent == target.parent
        assert (target.read_bytes() if old else None) == old
        move_into_place(staging / "part", target)
    assert tree(tmp_path) == {"model.onnx": b"new"}
    assert names(tmp_path) == ["model.onnx"]


def test_a_new_file_has_the_permissions_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with staging_folder(tmp_path / "m") as staging:
            (staging / "m").touch(0o600)
            move_into_place(staging / "m", tmp_path / "m")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def replace(target: Path, content: bytes = b"new") -> None:
    with staging_folder(target) as staging:
        (staging / "part").write_bytes(content)
        move_into_place(staging / "part", target)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_replaced_file_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    target.chmod(mode)
    replace(target)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", mode)


@pytest.mark.parametrize("exists", [True, False])
def test_a_write_goes_through_a_symbolic_link(exists: bool, tmp_path: Path) -> None:
    for name in ("real", "links"):
        (tmp_path / name).mkdir()
    real, link = tmp_path / "real" / "m", tmp_path / "links" / "m"
    if exists:
        real.write_bytes(b"old")
    link.symlink_to(Path("..") / "real" / "m")
    replace(link)
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path / "links") == names(tmp_path / "real") == ["m"]


def test_a_read_only_file_is_refused_before_the_work(tmp_path: Path) -> None:
    target, link = tmp_path / "m", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o444)
    link.symlink_to(target)
    for path in (target, link):
        for write in (lambda p: write_text("new", p), check_writable):
            with pytest.raises(OutputError, match="is read-only") as refused:
                write(path)
            assert f"chmod u+w {path}" in str(refused.value.hint)
    assert tree(tmp_path) == {"m": b"old", "link": b"old"}


def test_a_missing_input_is_a_usage_error(tmp_path: Path) -> None:
    check_input(tmp_path, "folder")
    with pytest.raises(UsageError, match=f"there is no file {tmp_path / 'm'}") as refused:
        check_input(tmp_path / "m", hint="write it")
    assert (refused.value.exit_code, refused.value.hint) == (2, "write it")


def test_an_output_with_a_wrong_suffix_is_refused() -> None:
    check_suffix(Path("m.onnx"), (".onnx",))
    with pytest.raises(UsageError, match=r"--report is r\.pdf; it must end in \.html or \.htm"):
        check_suffix(Path("r.pdf"), (".html", ".htm"), "--report")


@pytest.mark.parametrize(
    "error",
    [OSError(code, os.strerror(code)) for code in FULL]
    + [KeyboardInterrupt(), RuntimeError("broken"), MemoryError(), SystemExit(1), OSError(errno.EACCES, "denied")],
    ids=repr,
)
def test_any_failure_leaves_the_old_file_and_no_temporary_files(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    is_full = isinstance(error, OSError) and error.errno in FULL
    with pytest.raises(OutputError if is_full else type(error)) as raised, staging_folder(target) as staging:  # noqa: PT012
        (staging / "part").write_bytes(b"half of the ne")
        raise error
    assert tree(tmp_path) == {"model.onnx": b"old"}
    assert names(tmp_path) == ["model.onnx"]
    if is_full:
        assert "no space left" in str(raised.value)
        assert "is unchanged" in str(raised.value.hint)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_a_failure_while_moving_a_file_leaves_the_old_one(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, fail_with(error))
    with pytest.raises((OutputError, KeyboardInterrupt)), staging_folder(target) as staging:  # noqa: PT012
        (staging / "part").write_bytes(b"new")
        move_into_place(staging / "part", target)
    assert tree(tmp_path) == {"model.onnx": b"old"}


def test_a_missing_or_unusable_parent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "missing" / "m.onnx", tmp_path / "file" / "m.onnx"):
        with pytest.raises(OutputError, match="does not exist") as refused, staging_folder(target):
            pass
        assert refused.value.hint
    monkeypatch.setattr("tempfile.mkdtemp", fail_with(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(OutputError, match=r"cannot write into .*Permission denied"), staging_folder(tmp_path / "m"):
        pass


def test_a_folder_at_the_target_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(OutputError, match="is a folder"), staging_folder(tmp_path / "m.onnx") as staging:  # noqa: PT012
        (staging / "part").write_bytes(b"new")
        move_into_place(staging / "part", tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx"]


def stage_folder(staging: Path) -> Path:
    content = staging / "content"
    content.mkdir()
    (content / "config.json").write_bytes(b"new")
    (content / "weights").write_bytes(b"new weights")
    return content


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()], ids=repr)
def test_a_failure_between_the_renames_of_a_folder_leaves_the_old_one(
    failing: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_bytes(b"old")
    calls, rename = [], Path.rename

    def failing_rename(self: Path, other: Path) -> Path:
        calls.append(self)
        if len(calls) == failing + 1:
            raise error
        return rename(self, other)

    with pytest.raises((OutputError, OSError, KeyboardInterrupt)), staging_folder(target) as staging:  # noqa: PT012
        content = stage_folder(staging)
        monkeypatch.setattr(Path, "rename", failing_rename)
        move_folder_into_place(content, target)
    assert tree(tmp_path) == {"model/config.json": b"old"}


def test_a_failure_while_the_old_folder_is_removed_leaves_the_new_one_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_bytes(b"old")
    rmtree, calls = shutil.rmtree, []

    def interrupted(path: Any, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), staging_folder(target) as staging:
        move_folder_into_place(stage_folder(staging), target)
    assert tree(tmp_path) == {"model/config.json": b"new", "model/weights": b"new weights"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_checkpoint_leaves_the_old_one(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tiny_vit(), tmp_path / "model", source={})
    before = tree(tmp_path)
    monkeypatch.setattr("acm_export.checkpoints.folder.save_file", fail_with(error))
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_checkpoint(tiny_vit(), tmp_path / "model", source={})
    assert tree(tmp_path) == before


@pytest.mark.parametrize("acm", [True, False])
def test_a_disk_that_fills_up_while_weights_are_written_is_an_output_error(acm: bool, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk")
    model = tiny_vit(None if acm else {}, num_labels=20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(OutputError, match="no space left"):
            save_checkpoint(model, tmp_path / "model", source={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    monkeypatch.setattr(onnx, "save", fail_with(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError, match="no space left"):
        write_model(onnx.ModelProto(), tmp_path / "m.onnx", data_from=tmp_path)
    assert tree(tmp_path) == {"m.onnx": b"old"}


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_outputs_must_differ_from_inputs_and_from_each_other(tmp_path: Path) -> None:
    model, out = tmp_path / "m", tmp_path / "o"
    check_apart([model, None], {"-o": out, "--plot": None})
    with pytest.raises(UsageError, match=r"-o .* is also an input"):
        check_apart([model], {"-o": tmp_path / "." / "m"})
    with pytest.raises(UsageError, match="--plot and -o are the same file"):
        check_apart([], {"-o": out, "--plot": out})


def test_files_that_belong_together_are_moved_together_or_not_at_all(tmp_path: Path) -> None:
    sources = [tmp_path / "a", tmp_path / "b"]
    for source in sources:
        source.write_text(source.name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        move_together_into_place([(sources[0], tmp_path / "x"), (sources[1], tmp_path / "folder")])
    assert not (tmp_path / "x").exists()
    move_together_into_place([(sources[0], tmp_path / "x"), (sources[1], tmp_path / "y")])
    assert (tmp_path / "x").read_text() + (tmp_path / "y").read_text() == "ab"


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    # a rename as root would put a file in the place of /dev/null
    target = tmp_path / "pipe"
    os.mkfifo(target)
    with pytest.raises(OutputError, match="is a device or pipe"), staging_folder(target):
        pass
    assert stat.S_ISFIFO(target.stat().st_mode)
    assert names(tmp_path) == ["pipe"]
