"""Recognise files and folders by their content, so that errors can say what was given instead of what is expected."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_HEAD_BYTES = 1 << 12
_MAX_JSON_BYTES = 64 << 20
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2"
"""First bytes of the tags that may follow ``ir_version`` in a ``ModelProto``."""

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MAGIC = (
    (b"ftrt", "a TensorRT engine", "acm-export latency times engines"),
    (b"ptrt", "a TensorRT engine", "acm-export latency times engines"),
    (b"vtrt", "an engine of TensorRT-RTX", "NVIDIA's tensorrt_rtx runs it: tensorrt_rtx --loadEngine=FILE"),
    (b"\x93NUMPY", "a NumPy array (.npy)", "save arrays by name with numpy.savez; --data takes the .npz file"),
    (b"\x7fELF", "a shared library", None),
    (b"\x80\x02", "a pickled PyTorch checkpoint", "acm-export convert reads checkpoints of the ACM authors' code"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x89PNG", "an image", "--data takes a folder of images"),
    (b"\xff\xd8\xff", "an image", "--data takes a folder of images"),
    (b"%PDF", "a PDF document", None),
)
"""First bytes of a file, its description, and a hint."""


@dataclass(frozen=True)
class FileKind:
    """What a file or folder is.

    Args:
        description: Noun phrase, for example "a checkpoint folder".
        hint: Which command takes it, or None.
    """

    description: str
    hint: str | None = None


_JSON_KINDS = (
    (
        {"model", "runtime", "runs"},
        FileKind(
            "a result of acm-export latency", "`latency --compare` and `calibrate --latency-file` read latency results"
        ),
    ),
    (
        {"manifest", "engine", "model"},
        FileKind("the record that build-engine writes beside an engine", "give the engine or the ONNX file"),
    ),
    ({"checks", "goals"}, FileKind("a result of acm-export doctor")),
)
"""Fields that identify a JSON object, and the kind that it is."""

JSON = "a JSON document"
ONNX = FileKind("an ONNX file", "inspect, verify, calibrate, set-budget, build-engine and latency take ONNX files")
NPZ = FileKind("an archive of NumPy arrays (.npz)", "--data takes .npz files")


def file_kind(path: Path) -> FileKind | None:
    """Recognise what is at a path.

    Args:
        path: Path of an existing file or folder.

    Returns:
        The kind, or None if the content is not recognised.

    Raises:
        UsageError: The file cannot be read.
    """
    if path.is_dir():
        return _folder_kind(path)
    if not path.is_file():
        return FileKind("a device or pipe")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        return FileKind("an empty file")
    return _binary_kind(path, head) or _text_kind(path, head)


def not_a(path: Path, expected: str, reason: str) -> str:
    """The message for a file that cannot be read as what it should be.

    Args:
        path: Path of the file.
        expected: What it should be, for example "a result of acm-export latency".
        reason: What is wrong with it, for a file of that kind, a JSON document, or a file that is not recognised.
    """
    kind = file_kind(path) if path.exists() else None
    if kind is None or kind.description in (JSON, expected):
        return f"{path} is not {expected}: {reason}"
    return f"{path} is {kind.description}, not {expected}"


def _binary_kind(path: Path, head: bytes) -> FileKind | None:
    if head[0] == 0x08 and head[1:2] < b"\x80" and head[2:3] in _ONNX_FIELDS and len(head) > 2:
        return ONNX
    for magic, description, hint in _MAGIC:
        if head.startswith(magic):
            return FileKind(description, hint)
    if head.startswith(b"PK\x03\x04"):
        return _archive_kind(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return FileKind("a safetensors file", _export_hint(path.parent) if _is_checkpoint(path.parent) else None)
    return None


def _folder_kind(path: Path) -> FileKind:
    if _is_checkpoint(path):
        return FileKind("a checkpoint folder", _export_hint(path))
    return FileKind("a folder")


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in _WEIGHTS)


def _export_hint(folder: Path) -> str:
    return f"export it first: acm-export export {folder} -o {folder.resolve().name}.onnx"


def _archive_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return FileKind("a damaged zip archive")
    if any(name.endswith("data.pkl") for name in names):
        return FileKind("a PyTorch checkpoint", "acm-export convert reads checkpoints of the ACM authors' code")
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    return FileKind("a zip archive", "unpack it first")


def _text_kind(path: Path, head: bytes) -> FileKind | None:
    text = _decoded(head).lstrip()
    if not text or "\0" in text:
        return None
    if text[:1] in ("{", "["):
        return _json_kind(path)
    if text[:15].lower().startswith(("<!doctype html", "<html")):
        return FileKind("an HTML page", "open it in a browser")
    return FileKind("a text file")


def _decoded(head: bytes) -> str:
    """The text, without a character that is cut at the end of the head; empty if it is not text."""
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return head[: error.start].decode("utf-8-sig") if error.start > len(head) - 4 else ""


def _json_kind(path: Path) -> FileKind:
    if path.stat().st_size > _MAX_JSON_BYTES:
        return FileKind("a text file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return FileKind("a text file")
    keys = content.keys() if isinstance(content, dict) else set()
    if "model_type" in keys:
        return FileKind("the config of a checkpoint", _export_hint(path.parent))
    return next((kind for fields, kind in _JSON_KINDS if fields <= keys), FileKind(JSON))
