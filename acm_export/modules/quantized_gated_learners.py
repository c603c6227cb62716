"""``acm::quantized_gated_learners``: the int8 operator as one PyTorch op.

On NVIDIA GPUs it runs the int8 kernels (acm_export.plugins.kernels); elsewhere it runs each learner on the tokens that
need it, with exact sums: float64 holds every sum of int8 products that the operator allows.
"""

from __future__ import annotations

import torch

from acm_export.base.errors import OpError
from acm_export.base.optional import require
from acm_export.modules.activations import activation_fn
from acm_export.modules.gated_learners import TORCH_DTYPES, learner_counts
from acm_export.op.quantized_signature import INT8_INPUTS, QUANTIZED_INPUTS, SMALLEST_RANGE, QuantizedSignature
from acm_export.op.schema import infer_shapes


@torch.library.custom_op("acm::quantized_gated_learners", mutates_args=())
def quantized_gated_learners(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    x_mult: torch.Tensor,
    w1: torch.Tensor,
    s1: torch.Tensor,
    b1: torch.Tensor,
    h_mult: torch.Tensor,
    h_zero: torch.Tensor,
    w2: torch.Tensor,
    s2: torch.Tensor,
    b2: torch.Tensor,
    num_learners: int,
    min_learners: int,
    activation: str,
    dynamic: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run learners 1..count of every token in int8 and sum them (docs/op.md, "The int8 operator").

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        x_mult: ``[D]``, float32; multiplier of each channel of x.
        w1: ``[D, N*h]``, int8. On a GPU, ``weight.t()`` of a contiguous weight is not copied.
        s1: ``[N*h]``, float32; scale of each hidden column, times the scale of x.
        b1: ``[N*h]``, float32.
        h_mult: ``[N]``, float32; multiplier of each learner's hidden values.
        h_zero: ``[N]``, int8; zero point of each learner's hidden values.
        w2: ``[N*h, D]``, int8; as w1.
        s2: ``[D]``, float32; scale of each output column.
        b2: ``[N+1, D]``, float32; row k is the output bias of a token with count k, zero points folded in.
        num_learners: N.
        min_learners: Learners that always run.
        activation: One of :data:`acm_export.op.ACTIVATIONS`.
        dynamic: 1 to scale the activations of each token by their largest value; CPU only.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32. On a GPU the op never synchronises with the device.

    Raises:
        OpError: Shapes, dtypes or attributes violate docs/op.md; the message has both values.
        KernelError: The GPU is older than sm_80, or the kernels do not support the call.
    """
    signature = QuantizedSignature(num_learners, min_learners, activation, dynamic)
    _check((x, gate_logits, thresholds, x_mult, w1, s1, b1, h_mult, h_zero, w2, s2, b2), signature)
    counts = learner_counts(gate_logits, thresholds, min_learners)
    rows, row_counts = x.reshape(-1, x.shape[-1]), counts.reshape(-1)
    order = torch.argsort(row_counts, descending=True, stable=True)
    totals = (row_counts.unsqueeze(1) > torch.arange(num_learners, device=x.device)).sum(0).tolist()
    q, q_factor = _quantize(rows[order].float() * x_mult, torch.ones(()), dynamic=bool(dynamic))
    sums = torch.zeros(rows.shape, dtype=torch.float64, device=x.device)
    hidden = w1.shape[1] // num_learners
    act = activation_fn(activation)
    for learner, total in enumerate(totals):
        if total == 0:
            break
        part = slice(learner * hidden, (learner + 1) * hidden)
        up = (q[:total] @ w1[:, part].double()).float() * q_factor[:total] * s1[part] + b1[part]
        qh, factor = _quantize(act(up), h_mult[learner], int(h_zero[learner]), dynamic=bool(dynamic))
        sums[:total] += (qh @ w2[part].double()) * factor
    y = torch.empty_like(rows, memory_format=torch.contiguous_format)
    y[order] = (sums.float() * s2 + b2[row_counts[order]]).to(x.dtype)
    return y.reshape(x.shape), counts


def _quantize(
    values: torch.Tensor, multiplier: torch.Tensor, zero: int = 0, *, dynamic: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values of float32 ``[rows, K]`` as float64, and the factor ``[rows, 1]`` of their sums. NaN becomes 0."""
    factor = torch.ones(len(values), 1, device=values.device)
    if dynamic:
        largest = values.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_RANGE)
        multiplier, zero, factor = 127 / largest, 0, largest / 127
    rounded = torch.round(values * multiplier) + zero
    return rounded.clamp(-128, 127).nan_to_num(nan=0.0).double(), factor


@quantized_gated_learners.register_kernel("cuda")
def _(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    x_mult: torch.Tensor,
    w1: torch.Tensor,
    s1: torch.Tensor,
    b1: torch.Tensor,
    h_mult: torch.Tensor,
    h_zero: torch.Tensor,
    w2: torch.Tensor,
    s2: torch.Tensor,
    b2: torch.Tensor,
    num_learners: int,
    min_learners: int,
    activation: str,
    dynamic: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = (x, gate_logits, thresholds, x_mult, w1, s1, b1, h_mult, h_zero, w2, s2, b2)
    signature = QuantizedSignature(num_learners, min_learners, activation, dynamic)
    _check(tensors, signature)
    require("triton")
    from acm_export.plugins.kernels.launch_quantized import quantized_gated_learners as run_kernels

    return run_kernels(*tensors, signature)


@quantized_gated_learners.register_fake
def _(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,  # noqa: ARG001
    x_mult: torch.Tensor,  # noqa: ARG001
    w1: torch.Tensor,  # noqa: ARG001
    s1: torch.Tensor,  # noqa: ARG001
    b1: torch.Tensor,  # noqa: ARG001
    h_mult: torch.Tensor,  # noqa: ARG001
    h_zero: torch.Tensor,  # noqa: ARG001
    w2: torch.Tensor,  # noqa: ARG001
    s2: torch.Tensor,  # noqa: ARG001
    b2: torch.Tensor,  # noqa: ARG001
    num_learners: int,  # noqa: ARG001
    min_learners: int,  # noqa: ARG001
    activation: str,  # noqa: ARG001
    dynamic: int = 0,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, gate_logits.new_empty(gate_logits.shape[:-1], dtype=torch.int32)


def _check(tensors: tuple[torch.Tensor, ...], signature: QuantizedSignature) -> None:
    infer_shapes([list(tensor.shape) for tensor in tensors], signature)
    named = dict(zip(QUANTIZED_INPUTS, tensors, strict=True))
    if named["x"].dtype not in TORCH_DTYPES.values():
        raise OpError(f"x is {named['x'].dtype}; expected one of {', '.join(map(str, TORCH_DTYPES.values()))}")
    for name, tensor in named.items():
        expected = torch.int8 if name in INT8_INPUTS else torch.float32
        if name != "x" and tensor.dtype != expected:
            raise OpError(f"{name} is {tensor.dtype}; expected {expected}")
        if tensor.device != named["x"].device:
            raise OpError(f"{name} is on {tensor.device} but x is on {named['x'].device}")
