"""Reversed axes, in a form that NVIDIA's parser reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from acm_export.exporter import export
from acm_export.onnx_file.slice_ends import bound_slice_ends

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = np.iinfo(np.int64).min


def reversing_model(end: int, **constants: list[int]) -> onnx.ModelProto:
    """``x[:, ::-1]`` of float32 [rows, columns]."""
    values = {"start": [-1], "end": [end], "axes": [1], "step": [-1]} | constants
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "start", "end", "axes", "step"], ["y"])],
        "reverse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def constant(model: onnx.ModelProto, name: str) -> list[int]:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values: list[int] = numpy_helper.to_array(tensor).tolist()
    return values


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("end", [SMALLEST, SMALLEST + 1, -4, -100])
def test_only_the_smallest_end_changes_and_the_values_stay(end: int) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = reversing_model(end)
    before = run(model, x)
    bound_slice_ends(model.graph)
    assert constant(model, "end") == [max(end, SMALLEST + 1)]
    np.testing.assert_array_equal(run(model, x), before)


def test_a_constant_with_another_use_stays() -> None:
    model = reversing_model(SMALLEST)
    model.graph.node.append(helper.make_node("Add", ["end", "end"], ["sum"]))
    bound_slice_ends(model.graph)
    assert constant(model, "end") == [SMALLEST]


def test_external_data_is_not_read() -> None:
    model = reversing_model(SMALLEST)
    tensor = next(t for t in model.graph.initializer if t.name == "end")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="absent.data")
    bound_slice_ends(model.graph)
    assert tensor.data_location == TensorProto.EXTERNAL


def test_an_exported_flip_has_a_bounded_end(tmp_path: Path) -> None:
    class Flip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(1).cumsum(1)

    export(Flip(), torch.zeros(2, 5), tmp_path / "m.onnx", dynamic_shapes={"x": {0: "rows", 1: "columns"}})
    graph = onnx.load(tmp_path / "m.onnx").graph
    ends = {node.input[2] for node in graph.node if node.op_type == "Slice"}
    values = [numpy_helper.to_array(t) for t in graph.initializer if t.name in ends]
    assert values
    assert all((value > SMALLEST).all() for value in values)
