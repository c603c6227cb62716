"""Small models with ACM layers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.surgery import PlacedLayer, install_acm_layers, interface_of

VIT_SPECS = {
    "vit.layers.0.mlp": ACMSpec(12, 4, 6),
    "vit.layers.1.attention.q_proj": ACMSpec(12, 4, 3, 1, "identity", (8,), "relu"),
    "vit.layers.1.mlp": ACMSpec(12, 4, 6),
}
IMAGES = (1, 8, 8)


def tiny_vit(specs: dict[str, ACMSpec] | None = None, **config: Any) -> Any:
    """Make a ViT of width 12 with two layers; it has three ACM layers unless ``specs`` says otherwise."""
    settings = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 24,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "num_labels": 5,
    }
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**(settings | config)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if "embeddings" in name else 12**-0.5)
    install_specs(model, VIT_SPECS if specs is None else specs)
    randomize(model)
    return model.eval()


def install_specs(model: Any, specs: dict[str, ACMSpec]) -> None:
    """Install ACM layers at places that need no emptied modules."""
    interface = interface_of(model)
    install_acm_layers(model, interface, {name: PlacedLayer(spec) for name, spec in specs.items()})


def randomize(model: nn.Module) -> None:
    """Set non-zero biases, and gates whose margins spread."""
    with torch.no_grad():
        for _, layer in acm_layers(model):
            layer.b1.normal_(std=0.3)
            layer.b2.normal_(std=0.3)
            for linear in layer.gate.linears:
                linear.weight.normal_()
                linear.bias.normal_(std=0.3)


class TwoBranches(nn.Module):
    """A module outside transformers: two ACM layers of one signature, two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ACMLayer(ACMSpec(6, 3, 5, 1, "relu"))
        self.stack = nn.Sequential(nn.Linear(6, 6), ACMLayer(ACMSpec(6, 3, 5, 1, "relu")), nn.LayerNorm(6), nn.GELU())
        randomize(self)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[batch, t, 6]`` and a factor ``[batch, 1, 1]``."""
        first = self.first(tokens * scale)
        return first, self.stack(first + tokens)


def acm() -> ACMLayer:
    """Make a layer for tokens of width 6."""
    layer = ACMLayer(ACMSpec(6, 3, 5))
    randomize(layer)
    return layer


class TwoLayers(nn.Module):
    """Two layers in sequence, whose parts a test may tie."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = acm(), acm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., 6]``."""
        return torch.as_tensor(self.b(x + self.a(x)))


class MixedInputs(nn.Module):
    """Takes a batch of samples, and a matrix that they share."""

    def __init__(self) -> None:
        super().__init__()
        self.acm = acm()

    def forward(self, x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        """Tokens ``[batch, 6, 6]`` and 36 weights."""
        return torch.as_tensor(self.acm(x + torch.einsum("ts,bsd->btd", mix.reshape(6, 6), x)))


class PassesThrough(nn.Module):
    """Returns its input ``x``, its result ``y``, its weight ``w`` and a negative ``n`` in the order it is given."""

    def __init__(self, outputs: str) -> None:
        super().__init__()
        self.acm, self.outputs, self.w = acm(), outputs, nn.Parameter(torch.randn(2, 6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens ``[..., 6]``."""
        y = self.acm(x)
        values = {"x": x, "y": y, "w": self.w, "n": -y}
        return tuple(values[name] for name in self.outputs)
