"""PyTorch checkpoints written by hand."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from acm_export.checkpoints.unpickle import load_state

if TYPE_CHECKING:
    from pathlib import Path


def zip_of(path: Path, content: bytes, storages: dict[str, bytes] | None = None, **entry: Any) -> Path:
    """Write a file with the layout of ``torch.save`` around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content, **entry)
        archive.writestr("archive/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


class Storage:
    """Pickled as PyTorch pickles a storage."""

    def __init__(self, count: Any, key: str = "0", kind: Any = torch.FloatStorage) -> None:
        self.pid = ("storage", kind, key, "cpu", count)


class Call:
    """Pickled as a call of ``function`` with ``arguments``, and a state that is given to the result."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def pickled(value: Any, protocol: int = 2) -> bytes:
    class Pickler(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.pid if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(offset: Any, size: Any, stride: Any, count: Any = 6, state: Any = None) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, Storage(count), offset, size, stride, False, collections.OrderedDict(), state=state)


def load_crafted(folder: Path, value: Any, protocol: int = 2, size: int = 24) -> Any:
    return load_state(zip_of(folder / "crafted.pth", pickled(value, protocol), {"0": bytes(size)}))


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "saved.pth", **options)
    return folder / "saved.pth"
