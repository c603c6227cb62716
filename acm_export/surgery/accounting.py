"""FLOPs of a model of a supported family, by what does them, from one pass and the shapes that it shows."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

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
    """Count what one pass over some inputs costs, padding included, with all learners running.

    Args:
        model: Dense or with ACM layers; runs once, in evaluation mode and without gradients.
        family: Of the model.
        inputs: By the names of its ``forward``'s parameters. On the device ``meta``, with the model there too, nothing
            is computed; transformers looks into masks, so there must be none among them then.

    Returns:
        For a dense model, the total is what ``torch.utils.flop_counter`` finds where attention is not fused.
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
        """ACM layers, linear maps and convolutions; what is inside an ACM layer is counted with it."""
        inside = {id(part) for module in model.modules() if isinstance(module, ACMLayer) for part in module.modules()}
        for name, module in model.named_modules():
            if isinstance(module, ACMLayer) or (isinstance(module, _COUNTED) and id(module) not in inside):
                yield name, module

    def add(self, name: str, module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        """Add what one call of a module costs."""
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
