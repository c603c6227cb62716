"""``acm::gate_logits``: a gate with one linear map as one PyTorch op that reads x in half precision.

On NVIDIA GPUs it runs the kernel of acm_export.plugins.kernels.gate; elsewhere it casts x and applies the linear map.
It has no gradient: :class:`acm_export.modules.Gate` uses it for inference only, and never during an export.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from acm_export.base.errors import OpError
from acm_export.base.optional import require

DTYPES = (torch.float16, torch.bfloat16)


@torch.library.custom_op("acm::gate_logits", mutates_args=())
def gate_logits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Score the choices of every token: ``x W^T + b``.

    Args:
        x: ``[..., D]``, float16 or bfloat16.
        weight: ``[C, D]``, float32.
        bias: ``[C]``, float32.

    Returns:
        Gate logits ``[..., C]``, float32. Products and sums are float32, on a GPU in a fixed order.

    Raises:
        OpError: Shapes, dtypes or devices contradict each other; the message has both values.
    """
    _check(x, weight, bias)
    return functional.linear(x.float(), weight, bias)


@gate_logits.register_kernel("cuda")
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    _check(x, weight, bias)
    return run_kernel(x, weight, bias)


@gate_logits.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    _check(x, weight, bias)
    return weight.new_empty((*x.shape[:-1], weight.shape[0]))


@register_flop_formula(torch.ops.acm.gate_logits)
def _(x_shape: torch.Size, weight_shape: torch.Size, *_shapes: object, **_arguments: object) -> int:
    return 2 * x_shape.numel() * weight_shape[0]


def run_kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Run the kernel on a GPU, or interpreted on a CPU (``TRITON_INTERPRET=1``). Arguments are not checked."""
    logits = torch.empty((*x.shape[:-1], len(bias)), dtype=torch.float32, device=x.device)
    if logits.numel():
        require("triton")
        from acm_export.plugins.kernels.gate import launch

        with torch.cuda.device_of(x):
            launch(x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous(), bias.contiguous(), logits)
    return logits


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    if x.dtype not in DTYPES:
        raise OpError(f"x is {x.dtype}; expected one of {', '.join(map(str, DTYPES))}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.dtype != torch.float32:
            raise OpError(f"{name} is {tensor.dtype}; expected torch.float32 for every dtype of x")
        if tensor.device != x.device:
            raise OpError(f"{name} is on {tensor.device} but x is on {x.device}")
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise OpError(f"weight is {list(weight.shape)} and bias {list(bias.shape)}; expected [C, D] and [C]")
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise OpError(f"x is {list(x.shape)} but weight is {list(weight.shape)}; the last sizes must be equal")
