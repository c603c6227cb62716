"""ONNX files on disk: read without their weights, checked before use, written whole or not at all.

Weights over :data:`EXTERNAL_ABOVE` bytes go to a file beside the model. It is named after its content, so that files
that differ only in thresholds share it, and a rewrite never changes data that another file refers to.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper

from acm_export.base.errors import ModelFileError
from acm_export.base.files import check_input, move_into_place, staging_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTERNAL_ABOVE = 1 << 30
"""Bytes of weights that a single file may hold. Protobuf ends at 2 GiB and needs a second copy while writing."""

_MAX_PROTO = (2 << 30) - 1
_CUT = "name a file that acm-export wrote; if it did write this one, the file was cut off or damaged: export it again"
_PER_BYTE = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
"""Values that share a byte, by the name of the type."""


def read_model(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file; tensors with external data keep pointing at it.

    Args:
        path: The file.

    Returns:
        The model, with every reference to external data checked: inside the folder, there, and long enough.

    Raises:
        UsageError: There is no such file.
        ModelFileError: It is not an ONNX file, or refers to data it must not or cannot use.
    """
    check_input(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder; expected an ONNX file", "export a checkpoint folder: acm-export export"
        )
    size = path.stat().st_size
    if size == 0 or size > _MAX_PROTO:
        hint = _CUT if size == 0 else "weights of that size lie in a file beside the model; export it again"
        raise ModelFileError(f"{path} has {size} bytes; an ONNX file has between 1 and {_MAX_PROTO}", hint)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(f"{path} is not an ONNX file: {error}", _CUT) from error
    if not model.ir_version or not model.graph.node:
        raise ModelFileError(f"{path} is not an ONNX file: it has no graph", _CUT)
    sizes: dict[str, int] = {}
    for tensor in external_tensors(model):
        _check_external(tensor, path, sizes)
    return model


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose data lie in another file: initializers, attributes of nodes, in subgraphs and functions."""
    return (tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL)


def data_files(model: onnx.ModelProto) -> list[str]:
    """Names of the external data files of a model, relative to its folder."""
    return sorted({location(tensor) for tensor in external_tensors(model)})


def location(tensor: TensorProto) -> str:
    """Relative path of a tensor's external data."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def external_range(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """Where the external data of a tensor lie: file, offset and length in bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return folder / entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0))


def write_model(model: onnx.ModelProto, path: Path, *, data_from: Path) -> None:
    """Write a model beside its external data.

    Args:
        model: External data, if any, lie in ``data_from`` under the names that the model gives.
        path: Is replaced whole or not at all.
        data_from: Folder of the external data; they are linked (or copied, across file systems) where missing.

    Raises:
        OutputError: The file cannot be written; what was there is untouched.
    """
    with staging_folder(path) as staging:
        onnx.save(model, staging / path.name)
        for name in data_files(model):
            if not (path.parent / name).exists():
                _link_or_copy(data_from / name, staging / Path(name).name)
                (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
                move_into_place(staging / Path(name).name, path.parent / name)
        move_into_place(staging / path.name, path)


_WITHOUT_TENSORS = {
    f"onnx.{name}"
    for name in ("OperatorSetIdProto", "StringStringEntryProto", "TensorAnnotation", "TypeProto", "ValueInfoProto")
}


def _tensors(message: Message) -> Iterator[TensorProto]:
    """The tensors anywhere in a message."""
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
        raise ModelFileError(f"{path}: the data of {tensor} point outside the model's folder: {name!r}")
    target = (folder / name).resolve()
    if not target.is_file():
        raise ModelFileError(f"{path}: the data file {name} is missing", "keep it in the model's folder")
    return target.stat().st_size


def _check_external(tensor: TensorProto, path: Path, sizes: dict[str, int]) -> None:
    """Refuse data outside the folder or shorter than the tensor; ``sizes`` remembers the files that were looked at."""
    name = location(tensor)
    if name not in sizes:
        sizes[name] = _data_size(name, tensor.name, path)
    try:
        _, offset, length = external_range(tensor, path.parent)
    except ValueError as error:
        raise ModelFileError(f"{path}: the data of {tensor.name} have no numeric offset and length") from error
    end = offset + max(length, _needed_bytes(tensor))
    if offset < 0 or length < 0 or end > sizes[name]:
        raise ModelFileError(
            f"{path}: {name} has {sizes[name]} bytes, {tensor.name} ends at {end}",
            "copy the data file again, or export again",
        )


def _needed_bytes(tensor: TensorProto) -> int:
    """Bytes that the shape and type of a tensor ask for; 0 for types without a fixed size."""
    try:
        name, dtype = TensorProto.DataType.Name(tensor.data_type), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        return 0
    if dtype.hasobject:
        return 0
    unpacked: int = math.prod(tensor.dims) * dtype.itemsize
    return -(-unpacked // _PER_BYTE.get(name, 1))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
