"""Learners of gated FFNs from a teacher's weights, and the memory that initialising takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation import initialise
from acm_export.distillation.choices import chosen_output, prefix_outputs
from acm_export.distillation.initialise import learners_from_ffn
from acm_export.distillation.statistics import SiteStatistics
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.modules.ffn_weights import FFNWeights

D, WIDTH = 12, 24
ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": torch.relu, "identity": lambda v: v}


def teacher(*, biases: bool = True, glu: bool = True, seed: int = 0) -> FFNWeights:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    up = {"w1": random(WIDTH, D), "b1": random(WIDTH) if biases else None}
    value = {"v1": random(WIDTH, D), "c1": random(WIDTH) if biases else None} if glu else {}
    return FFNWeights(**up, **value, w2=random(D, WIDTH), b2=random(D) if biases else None)


def hidden_of(weights: FFNWeights, x: torch.Tensor, activation: str) -> torch.Tensor:
    hidden = ACTIVATIONS[activation](F.linear(x, weights.w1, weights.b1))
    return hidden if weights.v1 is None else hidden * F.linear(x, weights.v1, weights.c1)


def statistics_of(weights: FFNWeights, x: torch.Tensor, activation: str) -> SiteStatistics:
    hidden = hidden_of(weights, x, activation).double()
    output = hidden @ weights.w2.T.double()
    return SiteStatistics(hidden.mean(0), hidden.square().mean(0), output.mean(0), 1.0, None, 1.0)


def initialised(weights: FFNWeights, x: torch.Tensor, activation: str, **spec: Any) -> ACMLayer:
    sizes = {"num_learners": 4, "hidden_dim": WIDTH // 4} | spec
    layer = ACMLayer(ACMSpec(D, activation=activation, glu=weights.v1 is not None, **sizes))
    learners_from_ffn(layer, weights, statistics_of(weights, x, activation))
    return layer.requires_grad_(False)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("biases", [True, False])
def test_all_learners_together_are_the_gated_ffn(activation: str, biases: bool) -> None:
    weights, x = teacher(biases=biases), torch.randn(50, D)
    layer = initialised(weights, x, activation)
    expected = F.linear(hidden_of(weights, x, activation), weights.w2, weights.b2)
    torch.testing.assert_close(prefix_outputs(layer, x)[:, -1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.run(x, torch.eye(5)[[4]].expand(50, 5))[0], expected, rtol=1e-5, atol=1e-5)


def test_the_neurons_whose_products_matter_most_come_first() -> None:
    weights, x = teacher(), torch.randn(400, D)
    layer = initialised(weights, x, "silu")
    hidden = F.silu(x @ layer.w1 + layer.b1) * (x @ layer.v1 + layer.c1)
    importance = hidden.square().mean(0).sqrt() * layer.w2.norm(dim=1)
    assert bool((importance.diff() <= 1e-5).all())


@pytest.mark.parametrize("hidden_dim", [3, 6, 9])
def test_every_prefix_has_the_mean_output_of_the_teacher(hidden_dim: int) -> None:
    weights, x = teacher(), torch.randn(400, D)
    layer = initialised(weights, x, "silu", hidden_dim=hidden_dim)
    expected = F.linear(hidden_of(weights, x, "silu"), weights.w2, weights.b2).mean(0)
    for prefix in prefix_outputs(layer, x).unbind(1):
        torch.testing.assert_close(prefix.mean(0), expected, rtol=1e-4, atol=1e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, x = teacher(), torch.randn(50, D)
    whole = initialised(weights, x, "silu")
    monkeypatch.setattr(initialise, "_CHUNK", 5 * D)
    pieces = initialised(weights, x, "silu")
    for name in ("w1", "b1", "v1", "c1", "w2"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name))
    torch.testing.assert_close(whole.b2, pieces.b2)


@pytest.mark.parametrize("glu", [False, True])
def test_a_layer_of_the_other_kind_is_refused(glu: bool) -> None:
    weights, x = teacher(glu=glu), torch.randn(5, D)
    layer = ACMLayer(ACMSpec(D, 4, 6, activation="silu", glu=not glu))
    with pytest.raises(ValueError, match="gated"):
        learners_from_ffn(layer, weights, statistics_of(weights, x, "silu"))


@pytest.mark.parametrize("least", [0, 1])
def test_training_sees_what_the_operator_computes(least: int) -> None:
    weights, x = teacher(), torch.randn(7, D)
    layer = initialised(weights, x, "silu", min_learners=least)
    prefixes = prefix_outputs(layer, x)
    assert prefixes.shape == (7, 5 - least, D)
    for choice in range(5 - least):
        logits = torch.eye(5 - least)[[choice]].expand(7, -1)
        y = layer.run(x, logits)[0]
        torch.testing.assert_close(prefixes[:, choice], y)
        torch.testing.assert_close(chosen_output(layer, x, logits), y)


def test_no_copy_of_a_whole_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor that operations return is counted; the largest must be a small part of a matrix."""
    weights, x = teacher(), torch.randn(50, D)
    found = statistics_of(weights, x, "silu")
    layer = ACMLayer(ACMSpec(D, 4, WIDTH // 4, activation="silu", glu=True))
    monkeypatch.setattr(initialise, "_CHUNK", 2 * D)
    held = [value for value in vars(weights).values() if isinstance(value, torch.Tensor)]
    largest = _LargestResult(shared=[*held, *layer.parameters()])
    with largest:
        learners_from_ffn(layer, weights, found)
    assert largest.elements <= max(2 * D, WIDTH)


class _LargestResult(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that an operation returned, views of ``shared`` aside."""

    def __init__(self, shared: list[torch.Tensor]) -> None:
        super().__init__()
        self._shared = {tensor.untyped_storage().data_ptr() for tensor in shared}
        self.elements = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._shared:
                self.elements = max(self.elements, tensor.numel())
        return result
