"""``acmize`` for a module in memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from acm_export.base.errors import AcmWarning, CheckpointError, UsageError
from acm_export.distillation.acmize import acmize
from acm_export.exporter import export
from acm_export.modules import ACMLayer, acm_layers

if TYPE_CHECKING:
    from pathlib import Path

STEPS = {"steps": (3, 2, 2), "batch": 8, "learners": 3}


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 36), nn.Linear(36, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.down(input=functional.gelu(self.up(input=x))))  # by name, as some models do


class Classifier(nn.Module):
    """Tokens ``[batch, t, 12]``, optionally with a mask ``[batch, t]``, to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn, self.head = nn.LayerNorm(12), FeedForward(), nn.Linear(12, 3)
        self.register_buffer("bias", torch.full((2,), -torch.inf))  # as causal masks have it

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        y = x + self.ffn(self.norm(x))
        weights = torch.ones_like(y[..., :1]) if attention_mask is None else attention_mask.unsqueeze(-1).to(y)
        return torch.as_tensor(self.head((y * weights).sum(1) / weights.sum(1)))


def cross_entropy(output: torch.Tensor, batch: dict[str, torch.Tensor], dense: torch.Tensor) -> torch.Tensor:
    assert output.shape == dense.shape
    return functional.cross_entropy(output, batch["labels"])


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier().train()


def samples(count: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(count, 5, 12, generator=generator), "labels": torch.arange(count) % 3}


def test_the_result_is_a_module_that_export_takes(model: Classifier, tmp_path: Path) -> None:
    before, parameters = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    adaptive = acmize(model, samples(), loss=cross_entropy, **STEPS)
    assert isinstance(adaptive, Classifier)
    assert not adaptive.training
    assert [name for name, _ in acm_layers(adaptive)] == ["ffn"]
    curve: Any = adaptive.acm_curve
    assert curve.quality_name == "negative loss"
    assert curve.thresholds[0].budget == 1.0
    exported = export(adaptive, samples(2)["x"], tmp_path / "m.onnx")
    assert exported.report is not None
    assert exported.report.passed
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value is parameters[name] and value.requires_grad for name, value in model.named_parameters())


def test_an_activation_that_gelu_replaces_is_announced(model: Classifier) -> None:
    model.ffn = nn.Sequential(nn.Linear(12, 36), nn.ReLU6(), nn.Linear(36, 12))  # type: ignore[assignment]
    steps = {**STEPS, "steps": (0, 0, 0)}
    with pytest.warns(
        AcmWarning, match=r"^the activation of 1 site \(ffn\) is not one of gelu, .* only after training$"
    ):
        acmize(model, samples(), **steps)


def test_without_a_loss_the_dense_outputs_are_imitated(model: Classifier) -> None:
    data = samples()
    del data["labels"]
    adaptive = acmize(model, data, steps=(150, 50, 50), batch=8, learners=3, lr=(1e-3, 1e-3, 1e-3))
    curve: Any = adaptive.acm_curve
    assert curve.quality_name == "1 - relative squared error"
    assert curve.dense == 1.0
    assert curve.thresholds[0].quality > 0.99


def test_samples_of_different_lengths_are_padded(model: Classifier) -> None:
    generator = torch.Generator().manual_seed(1)
    data = [{"x": torch.randn(length, 12, generator=generator)} for length in (3, 5, 4, 6, 3) * 4]
    with pytest.raises(UsageError, match="x has samples of the lengths 3 to 6, and the model takes no"):
        acmize(model, data, **STEPS)
    masked = [row | {"attention_mask": torch.ones(len(row["x"]), dtype=torch.long)} for row in data]
    adaptive = acmize(model, masked, **STEPS)
    (_, layer), *_ = acm_layers(adaptive)
    counted = []
    run = layer.run
    layer.run = lambda x, z: counted.append(run(x, z)[1]) or run(x, z)  # type: ignore[method-assign,func-returns-value]
    layer.thresholds.fill_(-torch.inf)
    adaptive(torch.zeros(2, 6, 12), (torch.arange(6) < torch.tensor([[3], [5]])).long())
    assert counted[0].tolist() == [[3, 3, 3, 0, 0, 0], [3, 3, 3, 3, 3, 0]]


def test_what_does_not_fit_is_refused(model: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a module in memory takes none"):
        acmize(model, samples(), tmp_path / "out")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="no output folder was given"):
        acmize(tmp_path, samples())  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="both a loss and the task"):
        acmize(model, samples(), loss=cross_entropy, task="distil", **STEPS)
    with pytest.raises(UsageError, match="has no parameters"):
        acmize(nn.Identity(), samples())
    with pytest.raises(CheckpointError, match="already an ACM layer"):
        acmize(acmize(model, samples(), loss=cross_entropy, **STEPS), samples(), **STEPS)
    with pytest.raises(UsageError, match="cross_entropy failed: KeyError"):
        acmize(model, {"x": samples()["x"]}, loss=cross_entropy, **STEPS)


def test_a_model_without_sites_says_what_was_looked_at() -> None:
    with pytest.raises(UsageError, match="selects no site"):
        acmize(nn.Linear(12, 3), {"input": samples()["x"]}, **STEPS)


def test_projections_can_be_replaced_too() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed = functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            return x + torch.as_tensor(self.o(mixed))

    torch.manual_seed(0)
    adaptive = acmize(Attention(), {"x": samples()["x"]}, sites="qkvo", **STEPS)
    assert all(isinstance(getattr(adaptive, name), ACMLayer) for name in "qkvo")
