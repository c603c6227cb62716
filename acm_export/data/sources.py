"""Where calibration data come from: ``.npz`` files, and functions of the user's own."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.batches import LABELS, missing_arrays
from acm_export.data.images import ImageFolder
from acm_export.data.user_function import import_function

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from acm_export.data.batches import Arrays, DataSource

_UNREADABLE = (
    OSError, ValueError, EOFError, NotImplementedError, RuntimeError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def open_source(text: str, processor: Path | None, model_folder: Path) -> DataSource:
    """The data that a user names.

    Args:
        text: A ``.npz`` file, a folder of images, or ``module:function``.
        processor: Folder or file of the image processor's settings; by default looked for beside data and model.
        model_folder: Where the model lies.

    Raises:
        UsageError: It is none of them.
    """
    path = Path(text)
    if path.is_dir():
        return ImageFolder(path, processor, model_folder)
    if path.is_file():
        return NpzFile(path)
    module, separator, function = text.partition(":")
    if separator and module.replace(".", "").isidentifier() and function.isidentifier():
        return Function(module, function)
    raise UsageError(
        f"there is no file or folder {text}", "--data takes an .npz file, an image folder, or module:function"
    )


class NpzFile:
    """Arrays of one file, read a piece at a time: a pass takes the memory of one batch, whatever the file's size.

    Args:
        path: Written by ``numpy.savez``.

    Raises:
        UsageError: It is not such a file; nothing in it is executed.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path

    def batches(self, size: int, names: Collection[str]) -> Iterator[Arrays]:
        """Those of the arrays that are of use, ``size`` rows at a time; others are not looked at."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                held = [name.removesuffix(".npy") for name in archive.namelist()]
                if missing := [name for name in names if name not in held and name != LABELS]:
                    raise UsageError(missing_arrays(self.name, held, missing), "name the arrays as the model's inputs")
                used = [name for name in held if name in names]
                readers = {name: _Rows(name, archive.open(f"{name}.npy")) for name in used}  # type: ignore[arg-type]
                for _ in range(0, max((reader.length for reader in readers.values()), default=0), size):
                    yield {name: reader.read(size) for name, reader in readers.items()}
        except _UNREADABLE as error:
            raise UsageError(
                f"{self.name} is not an .npz file of plain arrays: {error}",
                "write it with numpy.savez, from arrays that numpy.ascontiguousarray returns",
            ) from error


class _Rows:
    """One array of an archive, read along its leading axis."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self._stream = stream
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, self._dtype = read(stream)
        if not shape or (fortran and len(shape) > 1) or self._dtype.hasobject:
            raise ValueError(f"{name} is {self._dtype} {list(shape)}{', in Fortran order' if fortran else ''}")
        self.length, self._row = shape[0], shape[1:]
        self._left = self.length

    def read(self, most: int) -> np.ndarray[Any, Any]:
        rows = min(most, self._left)
        self._left -= rows
        nbytes = rows * int(np.prod(self._row, dtype=np.int64)) * self._dtype.itemsize
        content = self._stream.read(nbytes)
        if len(content) != nbytes:
            raise EOFError("the file ends too early")
        return np.frombuffer(content, self._dtype).reshape(rows, *self._row)


class Function:
    """A Python function that yields feeds: a mapping of arrays for each batch, labels under ``labels``.

    It is called once for every pass and has to yield the same each time.

    Args:
        module: Importable, the working folder included.
        function: Name of the function.

    Raises:
        UsageError: It cannot be imported, or is not a function.
    """

    def __init__(self, module: str, function: str) -> None:
        self.name = f"{module}:{function}"
        self._function: Callable[[], Any] = import_function(self.name, "--data")

    def batches(self, size: int, names: Collection[str]) -> Iterator[Arrays]:  # noqa: ARG002  the function decides
        """What the function yields."""
        for feeds in self._yielded():
            if not isinstance(feeds, Mapping):
                raise UsageError(f"{self.name} yields {type(feeds).__name__}, expected a dict of arrays by input name")
            yield dict(feeds)

    def _yielded(self) -> Iterator[Any]:
        """Its own errors are the user's, not ours."""
        try:
            yield from self._function()
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(
                f"{self.name} failed: {type(error).__name__}: {error}", "run again with --debug to see where"
            ) from error
