"""FLOPs of a model of a supported family, by what does them, from one pass and the shapes that it shows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acm_export.flops import (
    ModelFlops,
    attention_core_flops,
    convolution_flops,
    gate_flops,
    learner_flops,
    linear_flops,
)
from acm_export.modules import ACMLayer
from acm_export.surgery.sites import find_sites

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.surgery.family import Family

_Convolution = (nn.Conv1d, nn.Conv2d)


def model_flops(model: PreTrainedModel, family: Family, inputs: Mapping[str, torch.Tensor]) -> ModelFlops:
    """Count what one pass over some inputs costs, padding included, with all learners running.

    Args:
        model: Dense or with ACM layers; runs once, without gradients.
        family: Of the model.
        inputs: By the names of its ``forward``'s parameters. On the device ``meta``, with the model there too, nothing
            is computed; transformers looks into masks, so there must be none among them then.

    Returns:
        For a dense model, the total is what ``torch.utils.flop_counter`` finds where attention is not fused.
    """
    sites = find_sites(model, family)
    dense = {name for names in sites.values() for name in names}
    queries = {f"{family.layer_path(model, i)}.{family.projections['q_proj']}"
               for i in range(getattr(model.config, family.num_layers))}  # fmt: skip
    count = dict.fromkeys(("learners", "gates", "dense_sites", "attention_core", "rest"), 0)

    def hook(name: str) -> Any:
        def add(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            positions = output[..., 0].numel()  # of a linear map or an ACM layer: its tokens
            if isinstance(module, ACMLayer):
                count["learners"] += positions * module.spec.num_learners * learner_flops(module.spec)
                count["gates"] += positions * gate_flops(module.spec)
            elif isinstance(module, nn.Linear):
                part = "dense_sites" if name in dense else "rest"
                count[part] += positions * linear_flops(module.in_features, module.out_features)
            elif isinstance(module, _Convolution):
                each = convolution_flops(module.in_channels, module.out_channels, module.kernel_size, module.groups)
                count["rest"] += output.numel() // module.out_channels * each
            if name in queries:
                count["attention_core"] += positions * attention_core_flops(output.shape[-2], output.shape[-1])

        return add

    counted = (ACMLayer, nn.Linear, *_Convolution)
    inside_gates = {id(part) for module in model.modules() if isinstance(module, ACMLayer) for part in module.modules()}
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, counted) and (isinstance(module, ACMLayer) or id(module) not in inside_gates):
                handle = module.register_forward_hook(hook(name))
                stack.callback(handle.remove)
        model(**inputs)
    return ModelFlops(**count)
