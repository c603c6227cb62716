"""FLOPs of a model of a supported family, by part, from the shapes in one forward pass."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from acm_export.modules import ACMLayer
from acm_export.modules.evaluating import evaluating
from acm_export.modules.flops import (
    ModelFlops,
    attention_core_flops,
    convolution_flops,
    gate_flops,
    learner_flops,
    linear_flops,
)
from acm_export.surgery.sites import find_sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from acm_export.surgery.family import ModelFamily

_COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


def model_flops(model: PreTrainedModel, family: ModelFamily, inputs: Mapping[str, torch.Tensor]) -> ModelFlops:
    """Count the FLOPs of one forward pass, including padding, with all learners running.

    Args:
        model: Dense model or model with ACM layers; runs once, in evaluation mode and without gradients.
        family: Family of the model.
        inputs: Inputs by the names of ``forward``'s parameters. With model and inputs on the device ``meta``, nothing
            is computed; the inputs must then contain no masks, because transformers reads their values.

    Returns:
        FLOPs by part. The total of a dense model equals that of ``torch.utils.flop_counter`` without fused attention.
    """
    counter = _Counter(model, family)
    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for name, module in counter.counted_modules(model):
            stack.callback(module.register_forward_hook(partial(counter.add, name)).remove)
        model(**inputs)
    return ModelFlops(**counter.found)


class _Counter:
    def __init__(self, model: PreTrainedModel, family: ModelFamily) -> None:
        sites = find_sites(model, family)
        query = family.projections["q_proj"]
        layers = range(getattr(model.config, family.num_layers))
        self._dense = {name for names in sites.values() for name in names}
        self._queries = {f"{family.layer_path(model, index)}.{query}" for index in layers}
        self.found = dict.fromkeys(("learners", "gates", "dense_sites", "attention_core", "rest"), 0)

    @staticmethod
    def counted_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """ACM layers, linear maps and convolutions; modules inside an ACM layer are counted with the layer."""
        inside = {id(part) for module in model.modules() if isinstance(module, ACMLayer) for part in module.modules()}
        for name, module in model.named_modules():
            if isinstance(module, ACMLayer) or (isinstance(module, _COUNTED) and id(module) not in inside):
                yield name, module

    def add(self, name: str, module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        """Add the FLOPs of one call to a module."""
        if isinstance(module, ACMLayer):
            tokens = output[..., 0].numel()
            self.found["learners"] += tokens * module.spec.num_learners * learner_flops(module.spec)
            self.found["gates"] += tokens * gate_flops(module.spec)
        elif isinstance(module, nn.Linear):
            part = "dense_sites" if name in self._dense else "rest"
            self.found[part] += output[..., 0].numel() * linear_flops(module.in_features, module.out_features)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            each = convolution_flops(module.in_channels, module.out_channels, module.kernel_size, module.groups)
            self.found["rest"] += output.numel() // module.out_channels * each
        if name in self._queries:
            length, width = output.shape[-2:]
            self.found["attention_core"] += output[..., 0].numel() * attention_core_flops(length, width)
