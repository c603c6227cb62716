"""The transformers that are supported: one table entry for each family.

To add one, describe where its sites sit in the installed ``transformers`` (docs/families.md), add the entry to
:data:`FAMILIES`, and test it as ``tests/test_checkpoint_folder.py`` and ``tests/test_convert.py`` test the ViT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class FFNSite:
    """A feed-forward network as a triple inside one transformer layer, paths relative to that layer.

    Args:
        place: The module that the ACM layer takes the place of.
        up: Up projection.
        activation: Between the projections.
        down: Down projection. Of the three, those outside ``place`` become ``nn.Identity``.
    """

    place: str
    up: str
    activation: str
    down: str


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: name, shape (names for dynamic dimensions) and numpy dtype."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Family:
    """One family of Hugging Face transformers.

    Args:
        model_type: As in ``config.json``.
        outputs: For each supported architecture the fields of its output that an export returns.
        layers: Path of the list of transformer layers, relative to the base model.
        num_layers: Name of the config entry that counts them.
        ffn: The feed-forward site.
        projections: Paths of the attention projections by their short name (q_proj, k_proj, v_proj, o_proj).
        inputs: From the config to the inputs of a forward pass.
        stored_names: Patterns in the names that transformers writes, and what the modules are called in their place.
        heads: Beginnings of names, without the base model's, of heads that only some architectures have.
    """

    model_type: str
    outputs: Mapping[str, tuple[str, ...]]
    layers: str
    num_layers: str
    ffn: FFNSite
    projections: Mapping[str, str]
    inputs: Callable[[Any], tuple[InputSpec, ...]]
    stored_names: Mapping[str, str]
    heads: tuple[str, ...]

    def layer_path(self, model: Any, index: int) -> str:
        """Qualified name of transformer layer ``index`` in ``model`` (the base model or a model with a head)."""
        prefix = model.base_model_prefix
        base = f"{prefix}." if hasattr(model, prefix) else ""
        return f"{base}{self.layers}.{index}"


def _vit_inputs(config: Any) -> tuple[InputSpec, ...]:
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return (InputSpec("pixel_values", ("batch", config.num_channels, height, width)),)


_VIT = Family(
    model_type="vit",
    outputs={"ViTForImageClassification": ("logits",), "ViTModel": ("last_hidden_state",)},
    layers="layers",
    num_layers="num_hidden_layers",
    ffn=FFNSite(place="mlp", up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2"),
    projections={name: f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    inputs=_vit_inputs,
    stored_names={
        r"\bencoder\.layer\.": "layers.",
        r"\.attention\.attention\.query\.": ".attention.q_proj.",
        r"\.attention\.attention\.key\.": ".attention.k_proj.",
        r"\.attention\.attention\.value\.": ".attention.v_proj.",
        r"\.attention\.output\.dense\.": ".attention.o_proj.",
        r"\.intermediate\.dense\.": ".mlp.fc1.",
        r"(\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
    },
    heads=("classifier.", "pooler."),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (_VIT,)}


def family_of(model_type: str) -> Family:
    """Look a family up by the ``model_type`` of its config.

    Raises:
        CheckpointError: The family is unknown; the message lists what is supported.
    """
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
            "a family is one table entry: see docs/families.md, and acm_export/surgery/families.py",
        )
    return FAMILIES[model_type]
