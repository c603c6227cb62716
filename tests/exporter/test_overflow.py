"""Models that clamp float16 activations after an overflow: the graph clamps as PyTorch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from acm_export.exporter import export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGEST = float(torch.finfo(torch.float16).max)


class Clamped(nn.Module):
    """Multiplies, then clamps if ``overflowed`` says so, in float16 only."""

    def __init__(self, overflowed: Callable[[torch.Tensor], torch.Tensor | bool]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 30000.0]))
        self.overflowed = overflowed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight
        if y.dtype == torch.float16 and self.overflowed(y):
            y = torch.clamp(y, min=1000 - LARGEST, max=LARGEST - 1000)
        return y


@pytest.mark.parametrize(
    "overflowed",
    [
        lambda y: not torch.isfinite(y).all(),
        lambda y: not y.isfinite().all(),
        lambda y: torch.isinf(y).any(),
        lambda y: torch.any(torch.isinf(y)),
    ],
)
def test_activations_are_clamped_only_where_they_overflow(
    overflowed: Callable[[torch.Tensor], torch.Tensor | bool], tmp_path: Path
) -> None:
    model, x = Clamped(overflowed), torch.tensor([[2.0, 2.0], [-3.0, 3.0], [1.5, -4.0]])
    path = export(model, x[:2], tmp_path / "m.onnx", dtype="fp16", verify=False).path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    half = x.numpy().astype(np.float16 if "float16" in given.type else np.float32)
    (found,) = session.run(None, {given.name: half})
    with torch.no_grad():
        expected = model.half()(x.half())
    np.testing.assert_array_equal(found.astype(np.float16), expected.numpy())
    assert np.isfinite(found).all()
    assert expected.abs().max() > LARGEST - 1100


def test_a_limit_that_depends_on_an_overflow_is_a_constant(tmp_path: Path) -> None:
    class Chosen(Clamped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.weight
            limit = torch.where(torch.isinf(y).any(), LARGEST - 1000, LARGEST)
            return torch.clamp(y, min=-limit, max=limit)

    path = export(Chosen(torch.isinf), torch.ones(2, 2), tmp_path / "m.onnx", dtype="fp16", verify=False).path
    assert not {"IsInf", "Where", "ReduceMax"} & {node.op_type for node in onnx.load(path).graph.node}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: np.full((1, 2), 3, np.float32)})
    np.testing.assert_array_equal(found, [[3, np.float16(LARGEST - 1000)]])


def test_nothing_is_clamped_in_float32(tmp_path: Path) -> None:
    model = Clamped(lambda y: not torch.isfinite(y).all())
    path = export(model, torch.ones(2, 2), tmp_path / "m.onnx", verify=False).path
    assert "Clip" not in {node.op_type for node in onnx.load(path).graph.node}
