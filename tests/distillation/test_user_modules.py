"""``acmize`` of modules that torch treats in a special way, and of modules that it refuses."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.distillation.acmize import acmize
from acm_export.exporter import export
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

QUICK: dict[str, Any] = {"steps": (0, 0, 0), "batch": 4}


class Encoder(nn.Module):
    def __init__(self, *, batch_first: bool, norm_first: bool) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(
            8, 2, 24, activation=nn.GELU(), batch_first=batch_first, norm_first=norm_first
        )
        self.encoder, self.batch_first = nn.TransformerEncoder(block, 2), batch_first

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        if self.batch_first:
            return torch.as_tensor(self.encoder(x, src_key_padding_mask=padding))
        return torch.as_tensor(self.encoder(x.transpose(0, 1), src_key_padding_mask=padding)).transpose(0, 1)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_of_torch_with_padding(batch_first: bool, norm_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Encoder(batch_first=batch_first, norm_first=norm_first).eval()
    for layer in model.encoder.layers:
        for norm in (layer.norm1, layer.norm2):
            nn.init.normal_(norm.weight)
    x, padding = torch.randn(12, 5, 8), torch.zeros(12, 5, dtype=torch.bool)
    padding[::2, 3:] = True
    adaptive = acmize(model, {"x": x, "padding": padding}, **QUICK)
    for _, layer in acm_layers(adaptive):
        layer.thresholds.fill_(-torch.inf)
    inputs = {"x": x[:3], "padding": padding[:3]}
    valid = ~padding[:3]
    with torch.no_grad():
        torch.testing.assert_close(adaptive(**inputs)[valid], model(**inputs)[valid], atol=1e-4, rtol=1e-4)
    report = export(adaptive, inputs, tmp_path / "m.onnx").report
    assert report is not None
    assert report.passed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x + self.ffn(self.norm(x)))


class Classes(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(-1)


class InPlace(Block):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x += self.ffn(self.norm(x))
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Classes(), r"no output of the model has a gradient; it returns output \(int64\)"),
        (InPlace(), "overwrites a tensor that its gradient needs"),
        (Block().to("meta"), "norm.weight is on the device meta"),
        (Block().double(), "norm.weight is float64"),
    ],
)
def test_what_cannot_be_trained_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        acmize(model, {"x": torch.randn(12, 5, 8)}, **QUICK)


def test_a_bfloat16_module_is_exported_with_bfloat16_inputs(tmp_path: Path) -> None:
    adaptive = acmize(Block().bfloat16(), {"x": torch.randn(12, 5, 8)}, **QUICK)
    report = export(adaptive, {"x": torch.randn(2, 5, 8).bfloat16()}, tmp_path / "m.onnx").report
    assert report is not None
    assert report.passed


class Masked(Block):
    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * attention_mask.unsqueeze(-1)


class TokensFirst(Masked):
    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(0, 1), attention_mask.T).transpose(0, 1)


def masked_samples(dtype: type = np.int64, tokens: int = 3) -> list[dict[str, np.ndarray]]:
    """Three tokens, as many as the samples that are compared first."""
    x = np.random.default_rng(0).normal(size=(12, tokens, 8)).astype(np.float32)
    return [{"x": value, "attention_mask": np.ones(tokens, dtype)} for value in x]


def test_layers_that_the_mask_does_not_fit_are_named() -> None:
    with pytest.warns(AcmWarning, match=r"padding is not skipped in ffn: the mask is \[2, 3\].* sees tokens \[3, 2\]"):
        acmize(TokensFirst(), masked_samples(), **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AcmWarning)
        acmize(Masked(), masked_samples(), **QUICK)


def test_a_mask_of_floats_is_refused() -> None:
    with pytest.raises(UsageError, match="attention_mask is float32; expected integers or booleans"):
        acmize(Masked(), masked_samples(np.float32), **QUICK)
