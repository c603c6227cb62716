"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base import interrupts
from acm_export.base.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_CHUNK = 1 << 22


def check_writable(target: Path, option: str = "-o") -> None:
    """Find out before long work whether its result can be written.

    Args:
        target: The file or folder that will be replaced.
        option: That names it, for errors.

    Raises:
        OutputError: It cannot.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder", f"name a file with {option}")
    with staging_folder(target, option):
        pass


def check_suffix(target: Path, suffixes: Sequence[str], option: str) -> None:
    """Refuse an output whose name ends in another format than the one that is written.

    Args:
        target: Path of the output.
        suffixes: Accepted endings, such as ``.html``.
        option: Option that names it, for errors.

    Raises:
        UsageError: The name has another ending.
    """
    if target.suffix.lower() not in suffixes:
        endings = " or ".join(suffixes)
        example = target.with_suffix(suffixes[0])
        raise UsageError(f"{option} is {target.name}, it must end in {endings}", f"for example: {option} {example}")


def write_text(text: str, target: Path, option: str = "-o") -> None:
    """Write a text file whole or not at all.

    Raises:
        OutputError: It cannot be written; what was there is untouched.
    """
    with staging_folder(target, option) as staging:
        (staging / target.name).write_text(text, encoding="utf-8")
        move_into_place(staging / target.name, target)


@contextmanager
def staging_folder(target: Path, option: str = "-o") -> Iterator[Path]:
    """A temporary folder beside ``target``, on the same file system, removed however the block ends.

    Args:
        target: The file or folder that will be replaced; its parent must exist and be writable.
        option: That names it, for errors.

    Raises:
        OutputError: The folder cannot be made or written, or the disk is full; the target is untouched.
    """
    parent = target.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"the output folder {parent} does not exist", f"create it, or choose another with {option}")
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=parent))
    except OSError as error:
        raise OutputError(
            f"cannot write into {parent}: {error.strerror}", f"choose another folder with {option}"
        ) from error
    try:
        yield staging
    except OSError as error:
        if _is_full(error, parent):
            reason = f"no space left while writing {target}"
            raise OutputError(reason, f"free some space; what was at {target.name} is untouched") from error
        if error.filename is not None and str(staging) in str(error.filename):
            raise OutputError(f"cannot write {target}: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move_into_place(source: Path, target: Path) -> None:
    """Sync ``source`` to disk and rename it over ``target`` (same file system; atomic for files)."""
    move_together_into_place([(source, target)])


def move_together_into_place(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move files that belong together: an interrupt comes before all of them or after.

    Args:
        pairs: Source and target, on one file system.

    Raises:
        OutputError: A target is a folder; nothing was changed.
    """
    interrupts.check()
    for source, target in pairs:
        if target.is_dir():
            raise OutputError(f"{target} is a folder", "name a file with -o")
        with source.open("rb") as handle:
            os.fsync(handle.fileno())
        source.chmod(0o666 & ~_umask())
    for source, target in pairs:
        source.replace(target)
        _sync_folder(target.absolute().parent)


def check_apart(inputs: Iterable[Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs that would replace what is read, or one another.

    Args:
        inputs: Files and folders that are read; None is left out.
        outputs: By the option that names them; None is left out.

    Raises:
        UsageError: Two are the same file.
    """
    read = {path.resolve() for path in inputs if path is not None}
    written: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in read:
            raise UsageError(f"{option} {path} is read here, and would be replaced", "write to another file")
        if path.resolve() in written:
            raise UsageError(f"{option} and {written[path.resolve()]} name one file, {path}", "name two")
        written[path.resolve()] = option


def move_folder_into_place(source: Path, target: Path) -> None:
    """Sync the files of ``source`` and rename it to ``target``.

    An existing target is replaced only where every file in it is one that is being replaced.

    Raises:
        OutputError: The target holds something else; nothing was changed.
    """
    interrupts.check()
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} exists and is not a folder", "choose another folder with -o")
    foreign = sorted(p.name for p in target.iterdir() if not (source / p.name).exists()) if target.exists() else []
    if foreign:
        raise OutputError(f"{target} holds other files: {', '.join(foreign[:5])}", "choose another folder with -o")
    for path in source.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
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
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_full(error: OSError, folder: Path) -> bool:
    """Whether a write failed for lack of space; numpy reports that without an error number."""
    if error.errno is None:
        return shutil.disk_usage(folder).free < _CHUNK
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
