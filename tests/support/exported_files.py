"""Run exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from tiny_models import IMAGES
from torch import nn

from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, *IMAGES, generator=torch.Generator().manual_seed(batch))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(path: Path, **feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Run the file unchanged; return its outputs by name."""
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    feeds = {k: np.asarray(v.numpy()) for k, v in feeds.items()}
    return dict(zip(names, opened.run(names, feeds), strict=True))


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Open a file, or its content, in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def torch_counts(model: nn.Module, *inputs: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Return the learner counts of every ACM layer in one forward pass."""
    counts = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, args, name=name: counts.__setitem__(name, layer.run(args[0], layer.gate(args[0]))[1].numpy())
        )
        for name, layer in acm_layers(model)
    ]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return counts
