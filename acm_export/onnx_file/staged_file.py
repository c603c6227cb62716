"""Finish a file whose weights were staged beside it: inside the file if they are small, in a data file otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from acm_export.base import interrupts
from acm_export.base.files import move_into_place
from acm_export.onnx_file.embedding import write_embedded
from acm_export.onnx_file.model_file import (
    EXTERNAL_ABOVE,
    external_tensors,
    put_under_content_name,
    set_location,
    tensor_values,
)

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "weights"
"""Name of the external data while a file is staged."""

_SMALL = 1024
"""Bytes below which a tensor stays in the model; shapes and axes must, because rules and runtimes read them."""


def stage(model: onnx.ModelProto, folder: Path, path: Path) -> None:
    """Write a model as ``path`` and its weights beside it as :data:`WEIGHTS`, one tensor at a time.

    Args:
        model: Model to write; afterwards its weights refer to the staged data.
        folder: Folder of its external data, if it has any.
        path: Path of the file to write, in a staging folder.
    """
    with path.with_name(WEIGHTS).open("wb") as data:
        for tensor in model.graph.initializer:
            interrupts.check()
            values = tensor_values(tensor, folder)
            if values.nbytes < _SMALL and tensor.data_location != TensorProto.EXTERNAL:
                continue
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            offset = data.tell()
            data.write(tensor.raw_data)
            set_external_data(tensor, WEIGHTS, offset=offset, length=len(tensor.raw_data))
            tensor.ClearField("raw_data")
    onnx.save(model, path)


def finish(path: Path, target: Path) -> Path | None:
    """Finish a staged file and move it to ``target``.

    Args:
        path: Staged file, with its weights beside it as :data:`WEIGHTS`.
        target: Path of the finished file.

    Returns:
        Path of its data file, or None if the weights are in the file.

    Raises:
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    proto = onnx.load(path, load_external_data=False)
    weights = path.with_name(WEIGHTS)
    if not weights.exists() or weights.stat().st_size <= EXTERNAL_ABOVE:
        complete = path.with_suffix(".complete")
        write_embedded(proto, path.parent, complete)
        move_into_place(complete, target)
        return None
    data = put_under_content_name(weights, target)
    for tensor in external_tensors(proto):
        set_location(tensor, data.name)
    onnx.save(proto, path)
    move_into_place(path, target)
    return data
