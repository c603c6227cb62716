"""ViTs of known shapes with random weights, dense or with ACM layers instead of their MLPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.initialization import no_init_weights

from acm_export.modules import ACMSpec
from acm_export.surgery import PlacedLayer, install_acm_layers, interface_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LABELS, NUM_LEARNERS, STD = 1000, 4, 0.02


@dataclass(frozen=True)
class Shape:
    """A ViT for images of 224 x 224 in patches of 16 x 16, with 1000 labels.

    Args:
        name: Name of the shape in results.
        hidden: Width D of a token.
        layers: Number of transformer layers.
        heads: Number of attention heads.
        ffn: Hidden width of the MLP, N*h with ACM layers.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights in float32, to within 2%."""
        return 4 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ffn)


TINY = Shape("tiny", 64, 2, 4, 256)
VIT_B = Shape("ViT-B/16", 768, 12, 12, 3072)
VIT_L = Shape("ViT-L/16", 1024, 24, 16, 4096)
VIT_H = Shape("ViT-H/16", 1280, 32, 16, 5120)


def random_vit(shape: Shape, *, acm: bool, seed: int = 0) -> PreTrainedModel:
    """Build a model with weights ~ N(0, 0.02²), biases 0 and LayerNorm scales 1, in evaluation mode.

    Args:
        shape: Shape of the transformer.
        acm: Replace each MLP with an ACM layer with N = 4, h = ffn / 4 and a gate of one linear map.
        seed: Seed of the weights.
    """
    config = ViTConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        num_labels=LABELS,
    )
    places = [f"vit.layers.{index}.mlp" for index in range(shape.layers)]
    spec = ACMSpec(shape.hidden, NUM_LEARNERS, shape.ffn // NUM_LEARNERS, activation=config.hidden_act)
    with no_init_weights():
        model = ViTForImageClassification(config)
        if acm:
            install_acm_layers(model, interface_of(model), dict.fromkeys(places, PlacedLayer(spec)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=STD, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()
