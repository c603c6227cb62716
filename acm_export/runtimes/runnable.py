"""A runnable copy of a file: portable, with thresholds as inputs and learner counts as outputs."""

from __future__ import annotations

import errno
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from acm_export.base.errors import OutputError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.model_file import tensor_values
from acm_export.onnx_file.retarget import counts_as_outputs
from acm_export.onnx_file.targets import rewrite_for
from acm_export.runtimes.onnx_runtime import CpuSession, Session

if TYPE_CHECKING:
    from typing import BinaryIO

    from acm_export.onnx_file.manifest import Manifest


_FLOAT32_DATA = "float32-weights"
_SMALL = 1024


def runnable_copy(
    model: onnx.ModelProto, manifest: Manifest, folder: Path | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Prepare a file of any target for ONNX Runtime's CPU provider.

    Args:
        model: Model of the file, changed in place.
        manifest: Manifest of the file.
        folder: Folder of the external data; needed for int8 files for TensorRT whose weights are external.

    Returns:
        The model with the portable body, with the thresholds of each layer as an optional input and its learner counts
        as the output ``counts/<layer>``; and notes on how it differs from the file.
    """
    notes: tuple[str, ...] = ()
    if manifest.budget_input:
        notes = ("the file computes its thresholds from a budget; here they were fed as inputs",)
        budget_input.detach(model, stored_thresholds(model, manifest, Path()))
    if manifest.target != "portable":
        notes += (f"the file is for the target {manifest.target}; its op was run with the portable body",)
        rewrite_for(model, manifest.replaced(calibration=None), "portable", folder=folder)
    thresholds_as_inputs(model, manifest)
    counts_as_outputs(model)
    return model, notes


def thresholds_as_inputs(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Make the thresholds of each layer, which must be initializers, optional inputs, in place."""
    inputs = {value.name for value in model.graph.input}
    for layer in manifest.layers:
        if layer.thresholds not in inputs:
            shape = [layer.num_learners]
            model.graph.input.append(helper.make_tensor_value_info(layer.thresholds, TensorProto.FLOAT, shape))


def open_runnable(
    copy: onnx.ModelProto,
    manifest: Manifest,
    folder: Path,
    *,
    session: type[Session] = CpuSession,
    lean: bool = False,
    scratch: Path | None = None,
) -> tuple[Session, tuple[str, ...]]:
    """Load a runnable copy; on the CPU, whose provider lacks bfloat16, a bf16 model is converted to float32.

    Args:
        copy: Model from :func:`runnable_copy`.
        manifest: Manifest of the file.
        folder: Folder of the external data.
        session: Session class that runs the model.
        lean: Save memory at the cost of speed (:class:`acm_export.runtimes.onnx_runtime.Session`).
        scratch: Folder for the float32 weights of a bf16 file; by default the system's temporary folder.

    Returns:
        The session, and notes on how it differs from the file.

    Raises:
        OutputError: The scratch folder is full.
        ModelFileError: ONNX Runtime cannot load the model.
    """
    if manifest.dtype != "bf16" or session is not CpuSession:
        return session(copy, folder, lean=lean), ()
    with TemporaryDirectory(prefix="acm-export-", dir=scratch) as float32_folder:
        try:
            convert_to_float32(copy, folder, Path(float32_folder))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = Path(float32_folder).parent
            raise OutputError(
                f"no space left in {where} for a float32 copy of the bf16 weights",
                "free some space there" + ("" if scratch else ", or set TMPDIR to another folder"),
            ) from error
        opened = session(copy, Path(float32_folder), lean=lean)
    return opened, (
        "ONNX Runtime's CPU provider does not support bf16: the file was run in float32, with its rounded weights",
    )


def convert_to_float32(model: onnx.ModelProto, folder: Path, scratch: Path) -> None:
    """Convert a bf16 model to float32 with the same, rounded weights, in place.

    Args:
        model: Model to convert.
        folder: Folder of its external data.
        scratch: Folder for the float32 weights, written one tensor at a time as the new external data.
    """
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.BFLOAT16:
                values = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(values))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    with (scratch / _FLOAT32_DATA).open("wb") as data:
        for tensor in model.graph.initializer:
            _move_out(tensor, folder, data)


def _move_out(tensor: TensorProto, folder: Path, data: BinaryIO) -> None:
    """Append a tensor to the external data, in float32 if it was bfloat16; small tensors stay in the model."""
    values = tensor_values(tensor, folder)
    if tensor.data_type == TensorProto.BFLOAT16:
        values = values.astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    if values.nbytes < _SMALL:
        return
    offset = data.tell()
    data.write(tensor.raw_data)
    set_external_data(tensor, _FLOAT32_DATA, offset=offset, length=values.nbytes)
    tensor.ClearField("raw_data")
