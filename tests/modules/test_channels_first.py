"""ACM layers in the place of 1x1 convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_models import randomize
from torch import nn

from acm_export.distillation.gated import gated
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ACMSpec(6, 3, 5, activation="relu", channels_first=True)


@pytest.fixture
def layers() -> tuple[ACMLayer, ACMLayer]:
    """A layer for channels first, and one for tokens with the same weights."""
    torch.manual_seed(0)
    first, last = ACMLayer(SPEC), ACMLayer(ACMSpec(6, 3, 5, activation="relu"))
    randomize(nn.ModuleList([first]))
    last.load_state_dict(first.state_dict())
    return first.requires_grad_(False), last.requires_grad_(False)


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 6, 3, 4)])
def test_the_layer_maps_the_channel_axis(shape: tuple[int, ...], layers: tuple[ACMLayer, ACMLayer]) -> None:
    first, last = layers
    x = torch.randn(shape)
    expected = last(x.movedim(1, -1)).movedim(-1, 1)
    assert first(x).shape == x.shape
    torch.testing.assert_close(first(x), expected)
    torch.testing.assert_close(first.dense()(x), last.dense()(x.movedim(1, -1)).movedim(-1, 1))


def test_training_sees_tokens(layers: tuple[ACMLayer, ACMLayer]) -> None:
    seen = []

    class Doubling:
        def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            seen.append(x.shape)
            return 2 * x

    model, x = nn.Sequential(layers[0]), torch.randn(2, 6, 3, 4)
    with gated(model, Doubling()):
        torch.testing.assert_close(model(x), 2 * x)
    assert seen == [(2, 3, 4, 6)]


def test_a_model_of_convolutions_is_exported(layers: tuple[ACMLayer, ACMLayer], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), layers[0]).eval().requires_grad_(False)
    x = torch.randn(2, 3, 8, 8)
    export(model, (x,), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, model(x).numpy(), atol=1e-5)
