"""Arrays of ``.npz`` files, mapped into memory: a file may be larger than the memory."""

from __future__ import annotations

import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from acm_export.data.batches import Arrays

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Header of a zip entry; only the lengths of its name and extra field are read."""

_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    AttributeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""Exceptions that zipfile and numpy raise for a broken file."""


def open_npz(path: Path, names: Collection[str]) -> tuple[Arrays, list[str]]:
    """Open an ``.npz`` file; nothing in it is executed, and arrays are read only where they are used.

    Args:
        path: File written by ``numpy.savez``.
        names: Names of the arrays to open; others are ignored.

    Returns:
        The arrays by name, and the names of all arrays of the file.

    Raises:
        UsageError: The file is not an .npz file of plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = [entry.removesuffix(".npy") for entry in archive.namelist()]
            arrays = {name: _open_array(path, archive, name) for name in held if name in names}
    except _UNREADABLE as error:
        raise UsageError(
            f"{path} is not an .npz file of plain arrays: {error}", "write it with numpy.savez(file, NAME=array)"
        ) from error
    return arrays, held


def _open_array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        start = stream.tell()
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= size
    if not shape or dtype.hasobject:
        raise ValueError(f"{name} is {dtype} {list(shape)}")
    if start + nbytes != entry.file_size:
        raise EOFError(f"{name} has {entry.file_size - start} bytes; expected {nbytes}")
    if not nbytes:
        return np.empty(shape, dtype)
    order: Any = "F" if fortran else "C"
    with _stored(path, archive, entry) as (file, offset):
        return np.memmap(file, dtype, "r", offset + start, shape, order)


@contextmanager
def _stored(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file with the uncompressed entry, and give its offset: in the archive itself or in a temporary copy."""
    if entry.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            yield file, entry.header_offset + _LOCAL_HEADER.size + name + extra
        return
    with tempfile.TemporaryFile(prefix="acm-export-") as copy, archive.open(entry) as stream:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        yield copy, 0
