"""Which modules of hand-written transformers are replaced, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.surgery.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.surgery.sites import Survey


class Inner(nn.Module):
    """Linear maps and a function that computes with them."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.act = function, nn.GELU()
        self.up, self.gate, self.down = nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(24, 12)
        self.both, self.scale = nn.Linear(12, 48), nn.Parameter(torch.ones(24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


class Block(nn.Module):
    """A pre-norm residual branch."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.ff, self.norm = Inner(function), nn.LayerNorm(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ff(self.norm(x))


class Flat(Block):
    """Linear maps in the block itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ff.function(self.ff, self.norm(x))


def found(model: nn.Module, **inputs: torch.Tensor) -> Survey:
    return survey(model.eval(), inputs or {"x": torch.randn(2, 5, 12)})


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * x.sigmoid()


def quick(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def newer(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def chunks(m: Any, x: torch.Tensor) -> torch.Tensor:
    gate, value = m.both(x).chunk(2, -1)
    return m.down(F.gelu(gate) * value)


def second_half(m: Any, x: torch.Tensor) -> torch.Tensor:
    value, gate = m.both(x).chunk(2, -1)
    return m.down(value * F.gelu(gate))


def slices(m: Any, x: torch.Tensor) -> torch.Tensor:
    both = m.both(x)
    return m.down(F.silu(both[..., :24]) * both[..., 24:])


def splits(m: Any, x: torch.Tensor) -> torch.Tensor:
    gate, value = m.both(x).split([24, 24], dim=-1)
    return m.down(F.silu(gate) * value)


def leaking(m: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = m.up(x)
    return m.down(m.act(hidden)) + hidden[..., :12]


ACTIVATIONS = {
    "gelu": lambda m, x: m.down(m.act(m.up(x))),
    "gelu_tanh": lambda m, x: m.down(newer(m.up(x))),
    "relu": lambda m, x: m.down(F.relu_(m.up(x))),
    "silu": lambda m, x: m.down(swish(m.up(x))),
    None: lambda m, x: m.down(quick(m.up(x))),
    "identity": lambda m, x: m.down(m.up(x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_recognised_however_it_is_written(name: str | None) -> None:
    (site,) = found(Block(ACTIVATIONS[name])).sites
    assert (site.place, site.activation, site.value) == ("ff", name, None)


GATED = {
    "separate": (lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)), "silu", ("gate", 0), ("up", 0)),
    "the other order": (lambda m, x: m.down(m.up(x) * F.relu(m.gate(x))), "relu", ("gate", 0), ("up", 0)),
    "no activation": (lambda m, x: m.down(m.up(x) * m.gate(x)), "identity", ("up", 0), ("gate", 0)),
    "unknown": (lambda m, x: m.down(m.up(x) * quick(m.gate(x))), None, ("gate", 0), ("up", 0)),
    "chunk": (chunks, "gelu", ("both", 0), ("both", 24)),
    "second half": (second_half, "gelu", ("both", 24), ("both", 0)),
    "slices": (slices, "silu", ("both", 0), ("both", 24)),
    "split": (splits, "silu", ("both", 0), ("both", 24)),
}


@pytest.mark.parametrize("name", GATED)
def test_the_branches_of_a_gated_ffn_are_told_apart(name: str) -> None:
    function, activation, gate, value = GATED[name]
    (site,) = found(Block(function)).sites
    assert site.value is not None
    assert site.activation == activation
    assert (site.up.module, site.up.first) == (f"ff.{gate[0]}", gate[1])
    assert (site.value.module, site.value.first) == (f"ff.{value[0]}", value[1])
    assert site.widths == ((12, 24), (12, 24), (24, 12))


REFUSED = {
    "function in a larger module": (Flat, lambda m, x: m.down(F.relu(m.up(x))), "relu between .* function call"),
    "gated in a larger module": (Flat, lambda m, x: m.down(F.relu(m.up(x)) * m.gate(x)), "function call"),
    "reshape between modules": (Flat, lambda m, x: m.down(m.act(m.up(x)).flatten(0, 1)).view(x.shape), "flatten"),
    "norm": (Block, lambda m, x: m.down(F.layer_norm(m.act(m.up(x)), (24,))), "a norm"),
    "sum of two": (Block, lambda m, x: m.down(F.relu(m.up(x) + m.gate(x))), "do not meet in a product"),
    "used twice": (Block, lambda m, x: m.down(F.relu(m.up(x)) * m.up(x)), "used 2 times"),
    "hidden values elsewhere": (Block, leaking, "hidden values are also used by slice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ffn_that_cannot_be_replaced_safely_is_left_with_the_reason(name: str) -> None:
    block, function, reason = REFUSED[name]
    result = found(block(function))
    assert not result.sites
    assert len(result.left) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(result.left[0].reason)


def test_modules_that_follow_each_other_form_a_chain() -> None:
    (site,) = found(Flat(lambda m, x: m.down(F.dropout(m.act(m.up(x)), training=m.training)))).sites
    assert (site.place, site.emptied) == ("ff.up", ("ff.act", "ff.down"))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(("activation", "count"), [("relu", 0), (nn.GELU(), 2)])
def test_an_encoder_layer_of_torch_needs_an_activation_module(activation: Any, count: int) -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 24, activation=activation, batch_first=True)
    result = found(nn.TransformerEncoder(layer, 2), src=torch.randn(2, 5, 12))
    assert [site.place for site in result.sites] == [f"layers.{i}.linear1" for i in range(count)]
    reasons = {item.name: item.reason for item in result.left}
    assert ("layers.0" in reasons) == (count == 0)
    assert "function call" in reasons["layers.0.self_attn"]


class Convolutional(nn.Module):
    """A block with squeeze-excite and an FFN of 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(1, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.mlp = nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        weights = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        x = x + y * torch.sigmoid(weights)
        return x + self.scale * self.mlp(self.norm(x))


def test_convolutions_of_size_1_form_an_ffn_and_squeeze_excite_does_not() -> None:
    result = found(Convolutional(), x=torch.randn(2, 8, 5, 5))
    assert [(site.place, site.axis, site.residual) for site in result.sites] == [("mlp", 1, True)]
    assert [item.name for item in result.left] == ["squeeze"]
    assert "no residual connection" in result.left[0].reason


def test_a_shared_weight_is_named() -> None:
    model = nn.Sequential(Block(ACTIVATIONS["gelu"]), Block(ACTIVATIONS["gelu"]))
    model[1].ff.up.weight = model[0].ff.up.weight
    result = found(model, input=torch.randn(2, 5, 12))
    assert not result.sites
    assert [item.reason for item in result.left] == [
        "up shares its weights with 1.ff.up",
        "up shares its weights with 0.ff.up",
    ]


class Quantised(nn.Linear):
    """A linear map with weights that it changes before use."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return F.linear(input, (self.weight * 8).round() / 8, self.bias)


def test_weights_that_a_module_changes_before_use_cannot_be_taken_over() -> None:
    model = Block(ACTIVATIONS["gelu"])
    model.ff.up = Quantised(12, 24)
    result = found(model)
    assert not result.sites
    assert "up is a Quantised" in result.left[0].reason
