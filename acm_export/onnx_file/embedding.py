"""Write a model and its external data as one file, one tensor at a time.

Protobuf's own serialisation needs two more copies of the weights in memory. An ONNX file is the encoded ``ModelProto``;
its graph is one length-prefixed field, and so is each initializer in it, so all lengths are known before any weight is
copied (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from onnx import GraphProto, ModelProto, TensorProto

from acm_export.onnx_file.model_file import external_range, external_tensors

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH_DELIMITED = 2
_CHUNK = 1 << 22


def write_embedded(model: ModelProto, folder: Path, target: Path) -> None:
    """Write a model with all its weights inside.

    Args:
        model: Model with external data; not changed.
        folder: Folder of the external data.
        target: Path of the file to write, under 2 GiB in total.

    Raises:
        OSError: A file cannot be read or written.
    """
    outer, graph = ModelProto(), GraphProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    graph.initializer.extend(t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
    fields = [(_header(tensor), *external_range(tensor, folder)) for tensor in external_tensors(model)]
    inner = graph.SerializeToString()
    size = len(inner) + sum(_initializer_size(header, length) for header, _, _, length in fields)
    with target.open("wb") as out:
        out.write(outer.SerializeToString())
        out.write(_key(ModelProto.GRAPH_FIELD_NUMBER) + _varint(size))
        out.write(inner)
        for header, path, offset, length in fields:
            raw = _key(TensorProto.RAW_DATA_FIELD_NUMBER) + _varint(length)
            out.write(_key(GraphProto.INITIALIZER_FIELD_NUMBER) + _varint(len(header) + len(raw) + length))
            out.write(header + raw)
            _copy(path, offset, length, out)


def _header(tensor: TensorProto) -> bytes:
    """Encoding of the tensor without its data."""
    header = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bytes(header.SerializeToString())


def _initializer_size(header: bytes, length: int) -> int:
    """Bytes of one initializer in the graph: key, length, header, and the raw data with its key and length."""
    body = len(header) + len(_key(TensorProto.RAW_DATA_FIELD_NUMBER) + _varint(length)) + length
    return len(_key(GraphProto.INITIALIZER_FIELD_NUMBER) + _varint(body)) + body


def _key(field_number: int) -> bytes:
    return _varint(field_number << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _copy(path: Path, offset: int, length: int, out: BinaryIO) -> None:
    with path.open("rb") as data:
        data.seek(offset)
        remaining = length
        while remaining:
            chunk = data.read(min(remaining, _CHUNK))
            if not chunk:
                raise OSError(f"{path.name} ends before offset {offset + length}")
            out.write(chunk)
            remaining -= len(chunk)
