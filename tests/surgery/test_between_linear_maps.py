"""What lies between the linear maps of an FFN: activations, parameters, and operations that mix hidden values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

from acm_export.surgery import Survey, model_flops, survey

if TYPE_CHECKING:
    from collections.abc import Callable

D, WIDTH = 8, 24
X = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0))


class FFN(nn.Module):
    """Two linear maps with any function between them."""

    def __init__(self, between: Callable[..., torch.Tensor], width: int = WIDTH) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, width), nn.Linear(WIDTH, D)
        self.extra = nn.Parameter(torch.rand(WIDTH))
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        takes_extra = self.between.__code__.co_argcount == 2  # type: ignore[attr-defined]
        hidden = self.up(x)
        return self.down(self.between(hidden, self.extra) if takes_extra else self.between(hidden))


class Block(nn.Module):
    """A residual connection around a module."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.norm, self.part = nn.LayerNorm(D), part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.part(self.norm(x))


def surveyed(part: nn.Module) -> Survey:
    return survey(Block(part), {"x": X})


@pytest.mark.parametrize(
    "between",
    [
        lambda h, b: F.gelu(h + b),
        lambda h, g: F.gelu(h) * g,
        lambda h, a: F.prelu(h, a[:1]),
        lambda h, b: F.gelu(h.add_(b)),
    ],
)
def test_a_parameter_between_the_linear_maps_is_refused_by_name(between: Callable[..., torch.Tensor]) -> None:
    found = surveyed(FFN(between))
    assert not found.sites
    (left,) = found.left
    assert left.reason.startswith("a parameter (part.extra) takes part between its linear maps (")


def test_a_constant_tensor_between_the_linear_maps_is_refused() -> None:
    (left,) = surveyed(FFN(lambda h: F.gelu(h) * torch.linspace(0, 1, WIDTH))).left
    assert left.reason.startswith("a tensor that does not depend on the input takes part")


@pytest.mark.parametrize(
    "between",
    [
        lambda h: F.gelu(h + 1.0),
        lambda h: F.gelu(h) * 0.5,
        F.relu6,
        lambda h: F.relu(h).clamp(max=20.0),
        lambda h: h.clamp(-1000.0, 1000.0),
        lambda h: F.hardtanh(h, -20, 20),
        lambda h: F.silu(h.clamp(max=7.0)),
        F.hardswish,
        F.mish,
    ],
)
def test_functions_that_the_operator_does_not_have_are_unknown(between: Callable[..., torch.Tensor]) -> None:
    (site,) = surveyed(_function(between)).sites
    assert site.activation is None
    assert site.replaced_activation


@pytest.mark.parametrize(
    ("between", "name"),
    [
        (lambda h: h * torch.sigmoid(1.702 * h), "silu"),
        (lambda h: h / (1 + torch.exp(-h)), "silu"),
        (lambda h: h * torch.exp(h) / (1 + torch.exp(h)), "silu"),  # NaN far out
        (lambda h: h * 0.5 * (1 + torch.erf(h / 1.41421)), "gelu"),
        (lambda h: 0.5 * h * (1 + torch.tanh(0.79788456 * h * (1 + 0.044715 * h * h))), "gelu_tanh"),
        (lambda h: torch.maximum(h, h * 0), "relu"),
    ],
)
def test_known_functions_are_recognised_however_they_are_written(
    between: Callable[..., torch.Tensor], name: str
) -> None:
    (site,) = surveyed(_function(between)).sites
    assert site.activation == name
    assert not site.replaced_activation


def _function(between: Callable[..., torch.Tensor]) -> FFN:
    def one_argument(hidden: torch.Tensor) -> torch.Tensor:
        return between(hidden)

    return FFN(one_argument)


def test_a_gated_ffn_that_clamps_both_branches_is_no_product() -> None:
    def clamped(h: torch.Tensor) -> torch.Tensor:
        gate, up = h.chunk(2, -1)
        return F.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    found = surveyed(FFN(clamped, 2 * WIDTH))
    assert not found.sites
    assert "do not meet in a product" in found.left[0].reason


def test_a_gated_ffn_that_clamps_its_gate_has_an_unknown_activation() -> None:
    def clamped(h: torch.Tensor) -> torch.Tensor:
        gate, up = h.chunk(2, -1)
        return F.silu(gate.clamp(max=7.0)) * up

    (site,) = surveyed(FFN(clamped, 2 * WIDTH)).sites
    assert (site.activation, site.value is not None) == (None, True)


@pytest.mark.parametrize(
    ("between", "name"),
    [
        (lambda h: F.glu(h, -1), "glu"),
        (lambda h: h[..., ::2] * F.silu(h[..., 1::2]), "slice"),
        (lambda h: torch.mul(*h.unflatten(-1, (2, WIDTH)).unbind(-2)), "unflatten"),
    ],
)
def test_operations_that_rearrange_hidden_values_are_named(between: Callable[..., torch.Tensor], name: str) -> None:
    found = surveyed(FFN(between, 2 * WIDTH))
    assert not found.sites
    assert [left.reason for left in found.left] == [f"{name} in part between its linear maps is not element-wise"]


class ColumnParallelLinear(nn.Module):
    """A linear map that returns its bias beside the product, as tensor-parallel code does."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = reads, writes
        self.weight, self.bias = nn.Parameter(torch.randn(writes, reads)), nn.Parameter(torch.zeros(writes))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.linear(x, self.weight), self.bias


class ParallelFFN(nn.Module):
    """An FFN of such linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = ColumnParallelLinear(D, WIDTH), ColumnParallelLinear(WIDTH, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)[0]))[0]


def test_linear_maps_that_return_tuples_are_left_and_counted() -> None:
    found = surveyed(ParallelFFN())
    assert (found.linear_maps, found.sites) == (2, ())
    assert "ColumnParallelLinear" in found.left[0].reason
    assert model_flops(Block(ParallelFFN()), {"x": X}).total == 2 * 2 * D * WIDTH * 10


def test_parametrised_weights_are_named_with_the_remedy() -> None:
    part = nn.Sequential(parametrizations.weight_norm(nn.Linear(D, WIDTH)), nn.GELU(), nn.Linear(WIDTH, D))
    (left,) = surveyed(part).left
    assert left.reason == "0 is parametrised; remove it with torch.nn.utils.parametrize.remove_parametrizations"


def test_a_module_with_two_names_shares_no_weights_but_cannot_be_replaced() -> None:
    block = Block(nn.Sequential(nn.Linear(D, WIDTH), nn.GELU(), nn.Linear(WIDTH, D)))
    block.alias = block.part
    (left,) = survey(block, {"x": X}).left
    assert left.reason == "alias is the same module as part; register it under one name"


def test_a_linear_map_with_two_names_is_no_shared_weight() -> None:
    part = nn.Sequential(nn.Linear(D, WIDTH), nn.GELU(), nn.Linear(WIDTH, D))
    block = Block(part)
    block.first = part[0]
    (site,) = survey(block, {"x": X}).sites
    assert site.place == "part"


def test_a_norm_is_called_a_norm_and_not_a_parameter() -> None:
    (left,) = surveyed(nn.Sequential(nn.Linear(D, WIDTH), nn.GELU(), HandWrittenNorm(), nn.Linear(WIDTH, D))).left
    assert left.reason == "a norm (part.2) lies between its linear maps"


class HandWrittenNorm(nn.Module):
    """RMSNorm, operation by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
