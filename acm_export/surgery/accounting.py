"""FLOPs of any model, by part, from the shapes in one forward pass."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, cast

from acm_export.modules.flops import ModelFlops, gate_flops, learner_flops, linear_flops
from acm_export.surgery.follow import follow
from acm_export.surgery.survey import survey_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from acm_export.modules import ACMLayer
    from acm_export.surgery.dataflow import Dataflow, Operation
    from acm_export.surgery.sites import Site

_PRODUCTS = ("matmul", "mm", "bmm", "linear", "mv", "dot")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def model_flops(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> ModelFlops:
    """Count the FLOPs of one forward pass, including padding, with all learners running.

    Args:
        model: Dense model or model with ACM layers; unchanged.
        inputs: Inputs by the names of ``forward``'s parameters. On the device ``meta`` nothing is computed.

    Returns:
        FLOPs by part. The total of a dense model equals that of ``torch.utils.flop_counter``.
    """
    flow = follow(model, inputs)
    return flow_flops(model, flow, survey_of(model, flow).sites)


def flow_flops(model: nn.Module, flow: Dataflow, sites: tuple[Site, ...]) -> ModelFlops:
    """Count the FLOPs of a recorded pass.

    Args:
        model: The model that was recorded.
        flow: The record.
        sites: Its sites.
    """
    dense = {part.module for site in sites for part in site.linear_maps}
    found = dict.fromkeys(("learners", "gates", "dense_sites", "attention_core", "rest"), 0)
    for operation in flow.operations:
        if operation.name == "acm_layer":
            spec = cast("ACMLayer", model.get_submodule(operation.module)).spec
            tokens = prod(operation.outputs[0].shape) // spec.model_dim
            found["learners"] += tokens * spec.num_learners * learner_flops(spec)
            found["gates"] += tokens * gate_flops(spec)
        elif operation.linear is not None:
            part = "dense_sites" if operation.module in dense else "rest"
            found[part] += tokens_of(operation) * linear_flops(
                operation.linear.in_features, operation.linear.out_features
            )
        elif flops := _product_flops(operation):
            found["attention_core" if len(operation.computed_inputs) > 1 else "rest"] += flops
    return ModelFlops(**found)


def tokens_at(flow: Dataflow, site: Site) -> int:
    """Number of tokens that reach a site in a recorded pass."""
    return sum(tokens_of(op) for op in flow.operations if op.linear is not None and op.module == site.up.module)


def tokens_of(operation: Operation) -> int:
    """Number of tokens in one call of a linear module."""
    assert operation.linear is not None  # noqa: S101  the caller chose a linear map
    return prod(operation.outputs[0].shape) // operation.linear.out_features


def _product_flops(operation: Operation) -> int:
    """FLOPs of a matrix product, an attention or a convolution; 0 for other operations."""
    name, shapes = operation.name, [value.shape for value in operation.inputs]
    flops, written = 0, prod(operation.outputs[0].shape) if operation.outputs else 0
    if name in _PRODUCTS:
        flops = linear_flops(shapes[0][-1], 1) * written
    elif name in ("addmm", "baddbmm"):
        flops = linear_flops(shapes[1][-1], 1) * written
    elif name == "einsum":
        flops = _einsum_flops(operation.args[0], shapes)
    elif name == "scaled_dot_product_attention":
        query, key, value = shapes[:3]
        flops = linear_flops(key[-2], query[-1] + value[-1]) * prod(query[:-1])
    elif name in _CONVOLUTIONS:
        flops = 2 * written * prod(shapes[1][1:])
    elif name in _TRANSPOSED:
        flops = 2 * prod(shapes[0]) * prod(shapes[1][1:])
    return flops


def _einsum_flops(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """FLOPs of a product of two tensors: one multiply-add for each combination of all indices."""
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        named = term.replace("...", "")
        sizes |= zip(named, shape[len(shape) - len(named) :], strict=True) if named else {}
        if "..." in term:
            extra = shape[: len(shape) - len(named)]
            sizes |= {f"...{index}": size for index, size in enumerate(reversed(extra))}
    return 2 * prod(sizes.values())
