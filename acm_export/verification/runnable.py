"""The copy of a file that verification runs: portable, thresholds as inputs, counts as outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from acm_export.targets import gated_learners_nodes, retarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from acm_export.manifest import Manifest


def runnable_copy(model: onnx.ModelProto, manifest: Manifest, folder: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Prepare a file of any target and dtype for ONNX Runtime's CPU provider.

    Args:
        model: The file as read; is changed.
        manifest: Its manifest.
        folder: Where its external data lie.

    Returns:
        The model with the portable body, each layer's thresholds overridable as inputs and its counts as the output
        ``counts/<layer>``; and notes on what differs from the file.
    """
    notes: list[str] = []
    if manifest.target != "portable":
        notes.append(f"the file is for the target {manifest.target}; its op ran with the portable body")
        retarget(model, manifest, "portable")
    if manifest.dtype == "bf16":
        notes.append("ONNX Runtime's CPU provider has no bfloat16: the float32 twin of the file was checked")
        load_external_data_for_model(model, str(folder))
        to_float32(model)
    outputs = {value.name for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    for layer in manifest.layers:
        if layer.thresholds not in inputs:
            shape = [layer.num_learners]
            model.graph.input.append(helper.make_tensor_value_info(layer.thresholds, TensorProto.FLOAT, shape))
    for node in gated_learners_nodes(model):
        if node.output[1] not in outputs:
            model.graph.output.append(helper.make_tensor_value_info(node.output[1], TensorProto.INT32, None))
    return model, tuple(notes)


def to_float32(model: onnx.ModelProto) -> None:
    """Turn a bfloat16 model into float32 with the same, rounded weights, in place."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in _tensors(model):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
