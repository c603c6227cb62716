"""ONNX files on disk: read without their weights, checked before use, written atomically.

Weights over :data:`EXTERNAL_ABOVE` bytes go to a data file beside the model. The data file is named after its content,
so files that differ only in thresholds share it, and a rewrite never changes data that another file refers to. Other
tools give data files the same name for every model, and change them: such files are neither shared nor trusted.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from acm_export.base import interrupts
from acm_export.base.errors import ModelFileError
from acm_export.base.file_kinds import ONNX, file_kind
from acm_export.base.files import check_input, move_into_place, sha256_of, staging_folder
from acm_export.onnx_file.overloads import replace_overloads

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Any

    from numpy.typing import NDArray

EXTERNAL_ABOVE = 1 << 30
"""Bytes of weights above which they go to a data file; Protobuf is limited to 2 GiB and copies weights when writing."""

_MAX_PROTO = (2 << 30) - 1
_DAMAGED = "if acm-export wrote this file, it is truncated or damaged: export it again"
_CONTENT_NAME = re.compile(r"[^/\\]+\.[0-9a-f]{12}\.data")
_PER_BYTE = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
"""Values per byte of the packed types, by the name of the type."""


def read_model(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file; external data is not read.

    Args:
        path: Path of the file.

    Returns:
        The model, with every reference to external data checked: inside the folder, present, and long enough. The
        portable bodies of files by earlier versions get the names of this one.

    Raises:
        UsageError: There is no such file.
        ModelFileError: The file is not ONNX, or refers to data that is missing, too short or outside its folder.
    """
    check_input(path, hint=f"write it with: acm-export export CHECKPOINT -o {path.with_suffix('.onnx').name}")
    _check_kind(path)
    size = path.stat().st_size
    if size > _MAX_PROTO:
        raise ModelFileError(
            f"{path} has {size} bytes; an ONNX file has at most {_MAX_PROTO}",
            "larger weights belong in an external data file; export the model again",
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(f"{path} is not an ONNX file: {error}", _DAMAGED) from error
    if not model.ir_version or not model.graph.node:
        raise ModelFileError(f"{path} is not an ONNX file: it has no graph", _DAMAGED)
    replace_overloads(model)
    sizes: dict[str, int] = {}
    for tensor in external_tensors(model):
        _check_external(tensor, path, sizes)
    return model


def _check_kind(path: Path) -> None:
    """Refuse a file or folder that is recognisably not ONNX, and say what it is."""
    kind = file_kind(path)
    if kind not in (None, ONNX):
        if kind.description == "an empty file":
            raise ModelFileError(f"{path} is an empty file, not an ONNX file", _DAMAGED)
        inside = next(path.glob("*.onnx"), None) if path.is_dir() else None
        hint = (
            f"give the ONNX file in it: {inside}"
            if inside
            else "write one with: acm-export export CHECKPOINT -o M.onnx"
        )
        raise ModelFileError(f"{path} is {kind.description}, not an ONNX file", kind.hint or hint)


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor with external data: initializers and attributes of nodes, also in subgraphs and functions."""
    return (tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL)


def data_files(model: onnx.ModelProto) -> list[str]:
    """Paths of the external data files of a model, relative to its folder."""
    return sorted({location(tensor) for tensor in external_tensors(model)})


def location(tensor: TensorProto) -> str:
    """Relative path of a tensor's external data."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def set_location(tensor: TensorProto, name: str) -> None:
    """Set the relative path of a tensor's external data, in place."""
    next(entry for entry in tensor.external_data if entry.key == "location").value = name


def external_range(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """Location of a tensor's external data: file, offset and length in bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return folder / entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0))


def tensor_values(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """Values of a tensor, inside or outside the file.

    Not by ``onnx.numpy_helper``, which refuses data files with several hard links; :func:`write_model` makes them.

    Args:
        tensor: Tensor of a model from :func:`read_model`, which has checked the location of its data.
        folder: Folder of the external data.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    path, offset, length = external_range(tensor, folder)
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(length or _needed_bytes(tensor))
    return numpy_helper.to_array(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=content))


def write_model(model: onnx.ModelProto, path: Path, *, data_from: Path) -> None:
    """Write a model beside its external data.

    Args:
        model: Model whose external data, if any, is in ``data_from``.
        path: Path of the file to write.
        data_from: Folder of the external data. A data file of acm-export that is missing beside ``path`` is
            hard-linked, or copied across file systems. Those of other tools are copied and named after their content,
            and the model refers to the copies afterwards.

    Raises:
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    with staging_folder(path) as staging:
        copies: dict[str, str] = {}
        for name in data_files(model):
            if not _CONTENT_NAME.fullmatch(name):
                interrupts.check()
                copy = Path(shutil.copyfile(data_from / name, staging / "data"))
                copies[name] = put_under_content_name(copy, path).name
            elif not _is_there(data_from / name, path.parent / name):
                _put_data_file(data_from / name, path.parent / name)
        for tensor in external_tensors(model):
            set_location(tensor, copies.get(location(tensor), location(tensor)))
        onnx.save(model, staging / path.name)
        move_into_place(staging / path.name, path)


def put_under_content_name(data: Path, model: Path) -> Path:
    """Move a data file beside a model, named after the model and the content of the data.

    Args:
        data: Data file in a staging folder.
        model: Path of the model.

    Returns:
        The new path, ``<stem of the model>.<start of the SHA-256>.data``.

    Raises:
        OutputError: The file cannot be written.
    """
    digest = sha256_of(data)
    target = model.with_name(f"{model.stem}.{digest[:12]}.data")
    if not target.is_file() or sha256_of(target) != digest:
        with staging_folder(target) as beside:  # the model may be a symbolic link to another file system
            shutil.move(data, beside / target.name)
            move_into_place(beside / target.name, target)
    return target


def remove_initializers(model: onnx.ModelProto, names: Container[str]) -> None:
    """Remove the initializers with these names, in place."""
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in names:
            del model.graph.initializer[index]


_WITHOUT_TENSORS = {
    f"onnx.{name}"
    for name in ("OperatorSetIdProto", "StringStringEntryProto", "TensorAnnotation", "TypeProto", "ValueInfoProto")
}


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a message."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.full_name not in _WITHOUT_TENSORS:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)


def _data_size(name: str, tensor: str, path: Path) -> int:
    folder = path.absolute().parent.resolve()
    usable = name and "\0" not in name and not Path(name).is_absolute()
    if not usable or not (folder / name).resolve().is_relative_to(folder):
        raise ModelFileError(f"{path}: the external data of {tensor} is outside the model's folder: {name!r}")
    target = (folder / name).resolve()
    if not target.is_file():
        raise ModelFileError(f"{path}: the data file {name} is missing", "put it back into the model's folder")
    return target.stat().st_size


def _check_external(tensor: TensorProto, path: Path, sizes: dict[str, int]) -> None:
    """Refuse data outside the folder or shorter than the tensor; ``sizes`` caches the sizes of data files."""
    name = location(tensor)
    if name not in sizes:
        sizes[name] = _data_size(name, tensor.name, path)
    try:
        _, offset, length = external_range(tensor, path.parent)
    except ValueError as error:
        raise ModelFileError(f"{path}: the external data of {tensor.name} has no numeric offset and length") from error
    end = offset + max(length, _needed_bytes(tensor))
    if offset < 0 or length < 0 or end > sizes[name]:
        raise ModelFileError(
            f"{path}: {name} has {sizes[name]} bytes, {tensor.name} ends at {end}",
            "copy the data file again, or export again",
        )


def _needed_bytes(tensor: TensorProto) -> int:
    """Bytes that the shape and type of a tensor require; 0 for types without a fixed size."""
    try:
        name, dtype = TensorProto.DataType.Name(tensor.data_type), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        return 0
    if dtype.hasobject:
        return 0
    unpacked: int = math.prod(tensor.dims) * dtype.itemsize
    return -(-unpacked // _PER_BYTE.get(name, 1))


def _is_there(source: Path, target: Path) -> bool:
    """Whether a data file named after its content is complete; its content is not read."""
    return target.is_file() and target.stat().st_size == source.stat().st_size


def _put_data_file(source: Path, target: Path) -> None:
    """Hard-link a data file, or copy it across file systems."""
    interrupts.check()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with staging_folder(target) as staging:
            shutil.copyfile(source, staging / target.name)
            move_into_place(staging / target.name, target)
