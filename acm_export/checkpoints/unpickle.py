"""Read the tensors of a PyTorch checkpoint without running any code that the file refers to.

The authors' files contain a config object of another library beside the weights, so PyTorch's weights-only loading
refuses them. Here every name in the pickle becomes an inert placeholder, except the ones that build tensors, which are
replaced by our own code. Nothing named in the file is imported or called.
"""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

import torch

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.base.file_kinds import not_a

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_PICKLE_BYTES = 256 << 20
_MAX_DEPTH = 16
_MAX_SHARING = 4  # bytes of all tensors over bytes of their storages: tied weights and views give little more than 1
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read ``model_state`` and the plain values of ``args`` from a file that the authors' code saved.

    Args:
        path: Zip file written by ``torch.save``.

    Returns:
        Tensors by name, and the numbers and strings of the file's config object, nested as in the file.

    Raises:
        UsageError: The file does not exist.
        CheckpointError: The file is truncated, in another format, or not a checkpoint of that code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Reader(archive).load()
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}", "give the .pth file that the authors' code saved") from error
    except (OSError, zipfile.BadZipFile) as error:
        message = not_a(path, "a PyTorch checkpoint", f"it is not a complete zip file: {error}")
        raise CheckpointError(message, _unreadable_hint(path)) from error
    except CheckpointError:
        raise
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        RuntimeError,
        OverflowError,
        struct.error,
    ) as error:
        raise CheckpointError(f"{path} contains a broken pickle: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        found = _abridged(content) if isinstance(content, dict) else type(content).__name__
        bare = isinstance(content, dict) and any(isinstance(value, torch.Tensor) for value in content.values())
        raise CheckpointError(
            f"{path} has no 'model_state'; found: {found or 'nothing'}",
            "a state dict alone is read as .safetensors: write it with safetensors.torch.save_file"
            if bare
            else "give the file that the authors' code saved, or its model_state as .safetensors",
        )
    state = content["model_state"]
    strange = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise CheckpointError(f"'model_state' of {path} contains values that are not tensors: {', '.join(strange[:5])}")
    check_sharing(state.values(), path)
    args = _plain(content.get("args"))
    return {str(k): v for k, v in state.items()}, args if isinstance(args, dict) else {}


def check_sharing(tensors: Iterable[torch.Tensor], path: Path) -> None:
    """Refuse many tensors over few storages: copying them would take far more memory than the size of the file.

    Raises:
        CheckpointError: The tensors have several times the bytes of their storages.
    """
    total = 0
    storages: dict[int, int] = {}
    for tensor in tensors:
        total += tensor.numel() * tensor.itemsize
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    if total > _MAX_SHARING * sum(storages.values()):
        raise CheckpointError(
            f"the tensors of {path} have {total} bytes, but share storages of {sum(storages.values())} bytes; "
            f"expected at most {_MAX_SHARING} times the size of the storages",
            "clone each tensor before saving",
        )


def _abridged(names: Iterable[object]) -> str:
    texts = [str(name) for name in names]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


def _unreadable_hint(path: Path) -> str:
    """What to do about a file that is not a readable zip file, from its first bytes."""
    if path.is_dir():
        return "give the .pth file, or pass a checkpoint folder directly to acm-export export"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return "check that the file can be read"
    if not start:
        return "copy or save it again"
    if start.startswith(b"PK"):
        return "the file is truncated or damaged: copy or save it again"
    if start.startswith(b"\x80"):
        return _resave_hint()
    return "give a .pth file that torch.save wrote, or its model_state as .safetensors"


def _resave_hint() -> str:
    return "save files of PyTorch before 1.6 again, or give model_state as .safetensors"


class _Placeholder:
    """Placeholder for an object whose class the file names; keeps the pickled state and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.state: object = args or kwargs

    def __new__(cls, *_args: object, **_kwargs: object) -> _Placeholder:  # noqa: PYI034
        placeholder = super().__new__(cls)
        placeholder.state = None
        return placeholder

    def __call__(self, *_args: object, **_kwargs: object) -> _Placeholder:
        return _Placeholder()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Items of dict subclasses are dropped."""

    def append(self, value: object) -> None:
        """Items of list subclasses are dropped."""

    def extend(self, values: object) -> None:
        """Items of list subclasses are dropped."""


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


class _TensorMaker:
    """Replacement for PyTorch's tensor constructors."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: int = 0, size: Any = (), stride: Any = (), *_rest: object
    ) -> torch.Tensor:
        if isinstance(storage, torch.Tensor) and not size:
            return storage  # a Parameter around a tensor
        if not isinstance(storage, _Storage):
            raise CheckpointError(f"a tensor is made from {type(storage).__name__} instead of a storage")
        if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
            raise CheckpointError(f"a tensor has offset {offset}, size {tuple(size)}, stride {tuple(stride)}")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else offset - 1
        if last >= storage.values.numel():
            raise CheckpointError(f"a tensor of size {tuple(size)} exceeds its storage of {storage.values.numel()}")
        if storage.values.numel() < torch.Size(size).numel():
            raise CheckpointError(
                f"a tensor of size {tuple(size)} has overlapping values; make it contiguous before saving"
            )
        return torch.as_strided(storage.values, tuple(size), tuple(stride), offset)


@dataclass(frozen=True)
class _Storage:
    values: torch.Tensor


# The pure Python unpickler: its memo is a dict, so that a large index in a hostile file reserves no memory.
class _Unpickler(pickle._Unpickler):  # noqa: SLF001
    def __init__(self, file: IO[bytes], reader: _Reader) -> None:
        super().__init__(file, encoding="utf-8")
        self._reader = reader

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001
    del dispatch[pickle.BYTEARRAY8[0]]  # reserves the memory that the file claims to need; no checkpoint contains one

    stack: list[Any]

    def load_build(self) -> None:
        """Set the state of placeholders only: it could overwrite the state of a tensor or of our own objects."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Placeholder):
            self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if module == "torch._utils" and name in (
            "_rebuild_tensor_v2",
            "_rebuild_tensor",
            "_rebuild_parameter",
        ):
            return _TensorMaker()
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return type(f"{module}.{name}", (_Placeholder,), {})

    def persistent_load(self, pid: object) -> _Storage:
        return self._reader.storage(pid)

    def get_extension(self, code: int) -> NoReturn:
        raise CheckpointError(f"the pickle uses the extension registry (code {code})")


class _Reader:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            message = not_a(Path(archive.filename or ""), "a PyTorch checkpoint", "it has no data.pkl")
            raise CheckpointError(message, "give a .pth file that torch.save wrote")
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        if self._root + "byteorder" in archive.namelist() and self._read("byteorder", 16) != b"little":
            raise CheckpointError(
                "the checkpoint was saved on a big-endian machine", "save it again on a little-endian machine"
            )

    def load(self) -> object:
        with self._open("data.pkl", _MAX_PICKLE_BYTES) as file:
            return _Unpickler(file, self).load()

    def storage(self, pid: object) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise CheckpointError("the file refers to a storage in a form that PyTorch does not write")
        _, kind, key, _, count = pid
        if key not in self._storages:
            size = int(count) * kind.dtype.itemsize
            data = self._read(f"data/{key}", size)
            if len(data) != size:
                raise CheckpointError(f"storage {key} has {len(data)} bytes, but the pickle says {size}")
            values = torch.frombuffer(bytearray(data), dtype=kind.dtype) if size else torch.empty(0, dtype=kind.dtype)
            self._storages[key] = _Storage(values)
        return self._storages[key]

    def _read(self, name: str, limit: int) -> bytes:
        with self._open(name, limit) as file:
            return bytes(file.read())

    def _open(self, name: str, limit: int) -> IO[bytes]:
        info = self._archive.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"the entry {name} is compressed; PyTorch never writes that")
        if info.file_size > limit:
            raise CheckpointError(f"the entry {name} has {info.file_size} bytes; expected at most {limit}")
        return self._archive.open(info)


def _plain(value: object, inside: tuple[int, ...] = ()) -> Any:
    """Numbers, strings, lists and dicts out of placeholders (OmegaConf keeps them under _content and _val)."""
    if id(value) in inside or len(inside) > _MAX_DEPTH:
        return None
    inside = (*inside, id(value))
    if isinstance(value, _Placeholder):
        state = value.state
        return _plain(state.get("_content", state.get("_val", state)), inside) if isinstance(state, dict) else None
    if isinstance(value, dict):
        return {str(k): _plain(v, inside) for k, v in value.items() if k != "_parent"}
    if isinstance(value, (list, tuple)):
        return [_plain(v, inside) for v in value]
    return value if isinstance(value, (bool, int, float, str)) else None
