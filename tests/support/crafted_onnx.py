"""Exported files with errors in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from acm_export.onnx_file.manifest import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def with_manifest(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy ``source`` with a manifest that ``change`` edits in place or replaces by its result."""
    model = onnx.load(source)
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    content = json.loads(entry.value)
    changed = change(content)
    entry.value = json.dumps(content if changed is None else changed)
    onnx.save(model, target)
    return target


def with_tensor(source: Path, target: Path, name: str, change: Callable[[TensorProto], object]) -> Path:
    """Copy ``source`` with an initializer ``name`` that ``change`` edits."""
    model = onnx.load(source)
    change(next(tensor for tensor in model.graph.initializer if tensor.name == name))
    onnx.save(model, target)
    return target


def point_at(tensor: TensorProto, location: str, **entries: object) -> TensorProto:
    """Move the data of a tensor into another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def external(location: str, **entries: object) -> TensorProto:
    """Make a float32 ``[4]`` tensor with its data in another file."""
    return point_at(TensorProto(name="stray", data_type=TensorProto.FLOAT, dims=[4]), location, **entries)
