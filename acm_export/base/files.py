"""Inputs that must exist, and outputs that appear complete or not at all.

A write replaces its target atomically. It writes through a symbolic link, keeps the permission bits of the file that it
replaces, and refuses a read-only file (no write bit set), for root as well.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base import interrupts
from acm_export.base.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

StrPath = str | os.PathLike[str]
"""Path types that the public functions accept."""

_CHUNK = 1 << 22
_log = logging.getLogger(__name__)
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def check_input(path: Path, what: str = "file", hint: str | None = None) -> None:
    """Check that an input exists and may be read.

    Args:
        path: Path of the input.
        what: Expected kind: ``file``, ``folder`` or ``file or folder``.
        hint: What to do if it is missing.

    Raises:
        UsageError: ``path`` does not exist, or may not be read.
    """
    if not path.exists():
        raise UsageError(f"there is no {what} {path}", hint)
    if not os.access(path, os.R_OK):
        raise UsageError(f"cannot read {path}: permission denied")
    _log.debug("reading %s%s", path, f" ({path.stat().st_size:,} bytes)" if path.is_file() else "")


def check_suffix(target: Path, suffixes: Sequence[str], option: str = "-o", hint: str | None = None) -> None:
    """Check that the name of an output has an accepted suffix.

    Args:
        target: Path of the output.
        suffixes: Accepted suffixes, each with its dot.
        option: Command-line option that sets the path, for errors.
        hint: What to do instead; by default the name with the first suffix.

    Raises:
        UsageError: The name has another suffix.
    """
    if target.suffix.lower() not in suffixes:
        raise UsageError(
            f"{option} is {target.name}; it must end in {' or '.join(suffixes)}",
            hint or f"for example: {option} {target.with_suffix(suffixes[0])}",
        )


def check_onnx_suffix(target: Path) -> None:
    """Check that the name of an output ends in .onnx; for an engine's name the hint is the verb that builds engines.

    Raises:
        UsageError: The name has another suffix.
    """
    engine = target.suffix in (".plan", ".engine")
    hint = f"acm-export build-engine builds {target.name} from an ONNX file" if engine else None
    check_suffix(target, (".onnx",), hint=hint)


def check_writable(target: Path, option: str = "-o") -> None:
    """Check that a result can be written, before the work that produces it starts.

    Args:
        target: File that will be written.
        option: Command-line option that sets the path, for errors.

    Raises:
        OutputError: The path is a folder, the file is read-only, or its folder cannot be written.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder", f"name a file with {option}")
    with staging_folder(target, option):
        pass


def write_text(text: str, target: Path, option: str = "-o") -> None:
    """Write a text file atomically.

    Args:
        text: Content of the file.
        target: Path of the file.
        option: Command-line option that sets the path, for errors.

    Raises:
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    with staging_folder(target, option) as staging:
        (staging / target.name).write_text(text, encoding="utf-8")
        move_into_place(staging / target.name, target)


@contextmanager
def staging_folder(target: Path, option: str = "-o") -> Iterator[Path]:
    """A temporary folder on the file system of the target, removed when the block ends.

    Args:
        target: File or folder that will be replaced; its parent must exist and be writable.
        option: Command-line option that sets the path, for errors.

    Yields:
        The temporary folder.

    Raises:
        OutputError: The target is read-only, its folder not writable, or the disk is full; the target is unchanged.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OutputError(f"{target} is a device or pipe, not a file", f"name a file with {option}")
    parent = link_target(target).parent
    if not parent.is_dir():
        raise OutputError(f"the output folder {parent} does not exist", f"create it, or choose another with {option}")
    _check_not_read_only(target, option)
    interrupts.hold()  # until the block that removes the folder
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=parent))
    except OSError as error:
        interrupts.release()
        raise OutputError(
            f"cannot write into {parent}: {error.strerror}", f"choose another folder with {option}"
        ) from error
    try:
        interrupts.release()
        yield staging
    except OSError as error:
        if _is_full(error, parent):
            reason = f"no space left while writing {target}"
            raise OutputError(reason, f"free some disk space; {target.name} is unchanged") from error
        if error.filename is not None and str(staging) in str(error.filename):
            raise OutputError(f"cannot write {target}: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def link_target(path: Path) -> Path:
    """The absolute path of the file that a write replaces: the target of a symbolic link, otherwise the path itself."""
    return path.resolve() if path.is_symlink() else path.absolute()


def move_into_place(source: Path, target: Path) -> None:
    """Sync ``source`` to disk and rename it over ``target`` (same file system; atomic for files).

    Args:
        source: File to move.
        target: Path to replace.

    Raises:
        OutputError: The target is a folder or read-only; nothing was changed.
    """
    move_together_into_place([(source, target)])


def move_together_into_place(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move files that belong together: an interrupt takes effect before the first move or after the last.

    Args:
        pairs: Source and target of each file, on one file system.

    Raises:
        OutputError: A target is a folder or read-only; nothing was changed.
    """
    interrupts.check()
    for source, target in pairs:
        if target.is_dir():
            raise OutputError(f"{target} is a folder", "name a file with -o")
        _check_not_read_only(target, "-o")
        _sync(source)
        source.chmod(_mode_for(target))
    for source, target in pairs:
        final = link_target(target)
        source.replace(final)
        _sync_folder(final.parent)


def check_apart(inputs: Iterable[Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Check that no output replaces an input or another output.

    Args:
        inputs: Files and folders that are read; None entries are ignored.
        outputs: Path of each output, by the option that sets it; None entries are ignored.

    Raises:
        UsageError: Two paths are the same file.
    """
    read = {path.resolve() for path in inputs if path is not None}
    written: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in read:
            raise UsageError(f"{option} {path} is also an input and would be replaced", "write to another file")
        if path.resolve() in written:
            raise UsageError(
                f"{option} and {written[path.resolve()]} are the same file, {path}", "give them different names"
            )
        written[path.resolve()] = option


def move_folder_into_place(source: Path, target: Path, *, owned: Collection[str] = ()) -> None:
    """Sync the files of ``source`` and rename it to ``target``.

    An existing target is replaced only if ``source`` has a file of the same name for each of its files but ``owned``.

    Args:
        source: Folder to move.
        target: Path to replace.
        owned: Names of files that may be lost.

    Raises:
        OutputError: The target is not a folder or contains other files; nothing was changed.
    """
    interrupts.check()
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} exists and is not a folder", "choose another folder with -o")
    held = target.iterdir() if target.exists() else ()
    foreign = sorted(p.name for p in held if p.name not in owned and not (source / p.name).exists())
    if foreign:
        raise OutputError(f"{target} contains other files: {', '.join(foreign[:5])}", "choose another folder with -o")
    for path in source.rglob("*"):
        if path.is_file():
            _sync(path)
    source.chmod(0o777 & ~_umask())
    if target.exists():
        retired = source.with_name(source.name + ".old")
        target.rename(retired)
        try:
            source.rename(target)
        except BaseException:
            retired.rename(target)
            raise
        shutil.rmtree(retired)
    else:
        source.rename(target)
    _sync_folder(target.absolute().parent)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_not_read_only(target: Path, option: str) -> None:
    """Refuse an existing file without write permission; root could replace it, but its owner protected it."""
    if not target.is_file():
        return
    if not target.stat().st_mode & _WRITE_BITS or not os.access(target, os.W_OK):
        raise OutputError(f"{target} is read-only", f"choose another file with {option}, or: chmod u+w {target}")


def _mode_for(target: Path) -> int:
    """Permission bits of a file that replaces ``target``: those of the existing file, otherwise the process default."""
    return stat.S_IMODE(target.stat().st_mode) if target.is_file() else 0o666 & ~_umask()


def _is_full(error: OSError, folder: Path) -> bool:
    """Whether a write failed for lack of space; numpy reports that without an error number."""
    if error.errno is None:
        return shutil.disk_usage(folder).free < _CHUNK
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
