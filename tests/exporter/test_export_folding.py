"""Constants that an export folds, and masks that fill elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from exported_files import run
from tiny_models import acm
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from acm_export.exporter import export
from acm_export.modules.wrapper import fold_parametrizations

if TYPE_CHECKING:
    from pathlib import Path


class Normed(nn.Module):
    """An ACM layer between convolutions under weight norm; the norm of the second is large."""

    def __init__(self) -> None:
        super().__init__()
        self.acm, self.plain = acm(), nn.Linear(6, 6)
        self.first = parametrizations.weight_norm(nn.Conv1d(6, 6, 3, padding=1, groups=2))
        self.second = parametrizations.weight_norm(nn.Conv1d(6, 6, 1), dim=2)
        with torch.no_grad():
            self.second.parametrizations.weight.original1.mul_(40000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[batch, t, 6]``."""
        mixed = self.first(self.plain(x).transpose(1, 2)).transpose(1, 2)
        return torch.as_tensor(self.second((mixed + self.acm(mixed)).transpose(1, 2)))


def test_folding_shares_what_it_does_not_change_and_leaves_the_module_alone() -> None:
    module = Normed()
    names = list(module.state_dict())
    folded = fold_parametrizations(module)
    x = torch.randn(2, 5, 6)
    assert not any(parametrize.is_parametrized(part) for part in folded.modules())
    assert torch.equal(folded(x), module(x))
    assert folded.get_parameter("plain.weight") is module.plain.weight
    assert folded.get_parameter("first.bias") is module.first.bias
    assert type(folded.get_submodule("first")) is nn.Conv1d
    assert list(module.state_dict()) == names
    assert parametrize.is_parametrized(module.first)
    assert fold_parametrizations(folded) is folded


def test_a_parametrized_module_on_its_own_is_folded() -> None:
    layer = parametrizations.weight_norm(nn.Linear(6, 4))
    folded = fold_parametrizations(layer)
    x = torch.randn(3, 6)
    assert type(folded) is nn.Linear
    assert torch.equal(folded(x), layer(x))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_weight_norm_is_computed_once_and_in_float32(dtype: str, tmp_path: Path) -> None:
    export(Normed().eval(), torch.randn(2, 5, 6), tmp_path / "m.onnx", dtype=dtype)  # verifies
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert {"first.weight", "second.weight"} <= {tensor.name for tensor in graph.initializer}
    assert not {node.op_type for node in graph.node} & {"ReduceL2", "Div"}


class Filled(nn.Module):
    """Puts a value where a mask of elements, or of rows, is true, and at an index."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Values ``[batch, 4]`` and a number for each sample."""
        result = x.clone()
        if self.kind == "elements":
            result[(rows > 0).unsqueeze(1).expand(x.shape) & (x < 0)] = 3
        elif self.kind == "rows":
            result[rows > 0] = 3
        else:
            result[torch.arange(x.shape[0]), rows.long().clamp(0, 3)] = 3
        return result


@pytest.mark.parametrize(("kind", "plain"), [("elements", True), ("rows", False), ("index", False)])
def test_index_put_takes_a_mask_or_an_index(kind: str, plain: bool, tmp_path: Path) -> None:
    module, x, rows = Filled(kind), torch.randn(6, 4), torch.tensor([1.0, -1, 2, 0, 3, -2])
    export(module, {"x": x, "rows": rows}, tmp_path / "m.onnx")
    for count in (6, 3):
        ran = run(tmp_path / "m.onnx", x=x[:count], rows=rows[:count])["output"]
        assert np.array_equal(ran, module(x[:count], rows[:count]).numpy())
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert ("Where" in kinds and not kinds & {"NonZero", "ScatterND"}) == plain
