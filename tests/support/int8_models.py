"""Models that are wide enough to quantise, their files, and data for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from tiny_models import IMAGES, tiny_vit

from acm_export.exporter import export
from acm_export.modules import ACMSpec
from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.targets import rewrite_for

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 64
SPECS = {
    "vit.layers.0.mlp": ACMSpec(WIDTH, 4, 32),
    "vit.layers.1.attention.q_proj": ACMSpec(WIDTH, 4, 16, 1, "identity", (8,), "relu"),
    "vit.layers.1.attention.k_proj": ACMSpec(WIDTH, 2, 24, 0, "identity", (8,), "relu"),  # not in alphabetic order
    "vit.layers.1.mlp": ACMSpec(WIDTH, 3, 40, 1),
}
ATTENTION = [
    *(f"vit.layers.0.attention.{name}.weight.T" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"vit.layers.1.attention.{name}.weight.T" for name in ("v_proj", "o_proj")),
]


def wide_vit(specs: dict[str, ACMSpec] | None = None) -> Any:
    """Make a ViT of width 64 with two layers; it has four ACM layers unless ``specs`` says otherwise."""
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH}
    model = tiny_vit(SPECS if specs is None else specs, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            if name.endswith((".w1", ".w2")):
                parameter.normal_(std=parameter.shape[0] ** -0.5)
            if "layernorm" in name and name.endswith("weight"):
                parameter.uniform_(0.2, 3)
    return model


def export_vit(path: Path, specs: dict[str, ACMSpec] | None = None, **options: Any) -> Path:
    """Export a :func:`wide_vit` without verification."""
    images = torch.randn(2, *IMAGES, generator=torch.Generator().manual_seed(0))
    export(wide_vit(specs), images, path, verify=False, output_fields=("logits",), **options)
    return path


def write_images(path: Path, samples: int = 60) -> Path:
    """Images for the ViT, with labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((samples, *IMAGES)).astype(np.float32)
    np.savez(path, pixel_values=images, labels=rng.integers(0, 5, samples))
    return path


def rewritten(source: Path, output: Path, *, target: str | None = None, dtype: str | None = None) -> Path:
    """Write a copy of a file for another target, or with another dtype in its manifest."""
    model = onnx.load(source)
    manifest = read_manifest(model, source)
    if target is not None:
        manifest = rewrite_for(model, manifest, target)
    if dtype is not None:
        manifest = manifest.replaced(dtype=dtype)
    write_manifest(model, manifest)
    onnx.save(model, output)
    return output


def with_weights(source: Path, output: Path, **weights: Any) -> Path:
    """Write a copy of a file with other values, ``{name with _ for .: values}``, in some initializers."""
    model = onnx.load(source)
    tensors = {tensor.name.replace(".", "_"): tensor for tensor in model.graph.initializer}
    for name, value in weights.items():
        tensor = tensors[name]
        values = np.broadcast_to(np.float32(value), tuple(tensor.dims))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(model, output)
    return output
