"""Which parts of a model a residual connection bypasses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.surgery.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable


class Layer(nn.Module):
    """An FFN, a norm, an attention of one map, and a function that connects them."""

    def __init__(self, connect: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.connect, self.scale = connect, nn.Parameter(torch.ones(12))
        self.ffn = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.norm, self.after, self.mix = nn.LayerNorm(12), nn.LayerNorm(12), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.connect(self, x)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


BYPASSED = {
    "pre-norm": lambda m, x: x + m.ffn(m.norm(x)),
    "post-norm": lambda m, x: m.norm(x + m.ffn(x)),
    "norm behind": lambda m, x: x + m.after(m.ffn(m.norm(x))),
    "norm without a module": lambda m, x: x + _rms(m.ffn(_rms(x))),
    "layer scale": lambda m, x: x + m.scale * m.ffn(m.norm(x)),
    "half": lambda m, x: x + 0.5 * m.ffn(m.norm(x)),
    "scaled residual": lambda m, x: m.scale * x + m.ffn(m.norm(x)),
    "in place": lambda m, x: x.clone().add_(m.ffn(m.norm(x))),
    "parallel, together": lambda m, x: x + (m.mix(m.norm(x)) + m.ffn(m.norm(x))),
    "parallel, one by one": lambda m, x: x + m.mix(m.norm(x)) + m.ffn(m.norm(x)),
    "flattened tokens": lambda m, x: x + m.ffn(m.norm(x).flatten(0, 1)).view(x.shape),
    "convolution layout": lambda m, x: x.mT + m.ffn(m.norm(x)).mT,
}
NOT_BYPASSED = {
    "no residual": lambda m, x: m.ffn(m.norm(x)),
    "gate": lambda m, x: x * torch.sigmoid(m.ffn(m.norm(x))),
    "gate in a residual": lambda m, x: x + m.mix(x) * torch.sigmoid(m.ffn(m.norm(x))),
    "projected afterwards": lambda m, x: x + m.mix(m.ffn(m.norm(x))),
    "added to something else": lambda m, x: m.ffn(m.norm(x)) + F.pad(m.scale, (0, 0)),
}


@pytest.mark.parametrize("name", BYPASSED)
def test_a_residual_connection_is_found(name: str) -> None:
    (site,) = survey(Layer(BYPASSED[name]), {"x": torch.randn(2, 5, 12)}).sites
    assert (site.place, site.residual) == ("ffn", True)


@pytest.mark.parametrize("name", NOT_BYPASSED)
def test_other_connections_are_no_residual(name: str) -> None:
    found = survey(Layer(NOT_BYPASSED[name]), {"x": torch.randn(2, 5, 12)})
    assert not found.sites
    assert [item.reason for item in found.left] == ["no residual connection bypasses it: a head, a pooler or a gate"]
