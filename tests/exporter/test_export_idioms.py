"""Exports of what models of users commonly do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from exported_files import run
from torch import nn

from acm_export.base.errors import ExportError
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


class Combined(nn.Module):
    def __init__(self, combine: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.acm, self.combine = ACMLayer(ACMSpec(4, 2, 3)), combine

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.acm(x) + self.combine(mask)[..., None]


@pytest.mark.parametrize(
    "combine",
    [
        lambda mask: 1.0 - mask,
        lambda mask: 1 - mask,
        lambda mask: (1.0 - mask) * -10000.0,
        lambda mask: 1.0 - mask.float(),
        lambda mask: torch.rsub(mask, 2.5, alpha=2),
        lambda mask: mask * 0.5 + (mask + 0.5) - (0.25 - mask) / 2,
    ],
)
def test_an_integer_mask_is_combined_with_numbers(
    combine: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    model, x = Combined(combine).eval(), torch.randn(2, 5, 4)
    result = export(model, {"x": x, "mask": MASK}, tmp_path / "m.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run(result.path, x=x, mask=MASK)["output"], model(x, MASK).numpy(), atol=1e-5)


def test_a_failure_names_the_line_of_the_model(tmp_path: Path) -> None:
    model = Combined(lambda mask: torch.sub(1.0, mask))
    with pytest.raises(ExportError, match=r"\(.*test_export_idioms.py:\d+: return .*combine\(mask\)"):
        export(model, {"x": torch.randn(2, 5, 4), "mask": MASK}, tmp_path / "m.onnx")


def test_a_module_may_be_called_on_a_parameter(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.acm, self.norm, self.table = ACMLayer(ACMSpec(4, 2, 3)), nn.LayerNorm(4), nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.acm(x + self.norm(self.table))

    model, x = Positions(), torch.randn(2, 4)
    assert export(model, x, tmp_path / "m.onnx").report is not None
    assert model.table.requires_grad
