"""``acm::quantized_gated_learners`` and ``acm::quantized_glu_gated_learners``: the int8 operators as PyTorch ops.

On NVIDIA GPUs they run the int8 kernels (acm_export.plugins.kernels); elsewhere they run each learner on the tokens
that need it, with exact sums: float64 holds every sum of int8 products that the operator allows.
"""

from __future__ import annotations

from typing import Any

import torch

from acm_export.base.errors import OpError
from acm_export.base.optional import require
from acm_export.modules.activations import activation_fn
from acm_export.modules.gated_learners import TORCH_DTYPES, learner_counts
from acm_export.op.quantized_signature import INT8_INPUTS, SMALLEST_RANGE, QuantizedSignature
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
    tensors = (x, gate_logits, thresholds, x_mult, w1, s1, b1, h_mult, h_zero, w2, s2, b2)
    return _run(dict(zip(signature.inputs, tensors, strict=True)), signature)


@torch.library.custom_op("acm::quantized_glu_gated_learners", mutates_args=())
def quantized_glu_gated_learners(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    x_mult: torch.Tensor,
    w1: torch.Tensor,
    s1: torch.Tensor,
    b1: torch.Tensor,
    v1: torch.Tensor,
    t1: torch.Tensor,
    c1: torch.Tensor,
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
    """As :func:`quantized_gated_learners`, with learners ``(act(x W1 + b1) * (x V1 + c1)) W2``.

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        x_mult: ``[D]``, float32; multiplier of each channel of x.
        w1: ``[D, N*h]``, int8.
        s1: ``[N*h]``, float32; scale of each column of w1, times the scale of x.
        b1: ``[N*h]``, float32.
        v1: ``[D, N*h]``, int8.
        t1: ``[N*h]``, float32; scale of each column of v1, times the scale of x.
        c1: ``[N*h]``, float32.
        h_mult: ``[N]``, float32; multiplier of each learner's hidden products.
        h_zero: ``[N]``, int8; zero point of each learner's hidden products.
        w2: ``[N*h, D]``, int8.
        s2: ``[D]``, float32; scale of each output column.
        b2: ``[N+1, D]``, float32; row k is the output bias of a token with count k, zero points folded in.
        num_learners: N.
        min_learners: Learners that always run.
        activation: One of :data:`acm_export.op.ACTIVATIONS`.
        dynamic: 1 to scale the activations of each token by their largest value; CPU only.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32. The hidden product is float32 and rounded to int8 once.

    Raises:
        OpError: Shapes, dtypes or attributes violate docs/op.md; the message has both values.
        KernelError: The GPU is older than sm_80, or the kernels do not support the call.
    """
    signature = QuantizedSignature(num_learners, min_learners, activation, dynamic, glu=True)
    tensors = (x, gate_logits, thresholds, x_mult, w1, s1, b1, v1, t1, c1, h_mult, h_zero, w2, s2, b2)
    return _run(dict(zip(signature.inputs, tensors, strict=True)), signature)


def _run(named: dict[str, torch.Tensor], signature: QuantizedSignature) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the tensors, and run the kernels on a GPU, or each learner on the tokens that need it elsewhere."""
    _check(named, signature)
    return _run_kernels(named, signature) if named["x"].is_cuda else _run_in_pytorch(named, signature)


def _run_in_pytorch(named: dict[str, torch.Tensor], signature: QuantizedSignature) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens sorted by count, and each learner on its prefix of them."""
    x, w2, dynamic = named["x"], named["w2"], bool(signature.dynamic)
    counts = learner_counts(named["gate_logits"], named["thresholds"], signature.min_learners)
    rows, row_counts = x.reshape(-1, x.shape[-1]), counts.reshape(-1)
    order = torch.argsort(row_counts, descending=True, stable=True)
    totals = (row_counts.unsqueeze(1) > torch.arange(signature.num_learners, device=x.device)).sum(0).tolist()
    q, q_factor = _quantize(rows[order].float() * named["x_mult"], torch.ones(()), dynamic=dynamic)
    sums = torch.zeros(rows.shape, dtype=torch.float64, device=x.device)
    hidden = w2.shape[0] // signature.num_learners
    act = activation_fn(signature.activation)
    for learner, total in enumerate(totals):
        if total == 0:
            break
        part = slice(learner * hidden, (learner + 1) * hidden)
        tokens = q[:total], q_factor[:total]
        values = act(_linear(*tokens, *(named[name][..., part] for name in ("w1", "s1", "b1"))))
        if signature.glu:
            values = values * _linear(*tokens, *(named[name][..., part] for name in ("v1", "t1", "c1")))
        qh, factor = _quantize(values, named["h_mult"][learner], int(named["h_zero"][learner]), dynamic=dynamic)
        sums[:total] += (qh @ w2[part].double()) * factor
    y = torch.empty_like(rows, memory_format=torch.contiguous_format)
    y[order] = (sums.float() * named["s2"] + named["b2"][row_counts[order]]).to(x.dtype)
    return y.reshape(x.shape), counts


def _linear(
    q: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    return (q @ weight.double()).float() * factor * scale + bias


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


def _run_kernels(named: dict[str, Any], signature: QuantizedSignature) -> tuple[torch.Tensor, torch.Tensor]:
    require("triton")
    from acm_export.plugins.kernels.launch_quantized import quantized_gated_learners as run_kernels

    return run_kernels(**named, signature=signature)


@quantized_gated_learners.register_fake
@quantized_glu_gated_learners.register_fake
def _(x: torch.Tensor, gate_logits: torch.Tensor, *_: torch.Tensor | int | str) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, gate_logits.new_empty(gate_logits.shape[:-1], dtype=torch.int32)


def _check(named: dict[str, torch.Tensor], signature: QuantizedSignature) -> None:
    infer_shapes([list(tensor.shape) for tensor in named.values()], signature)
    if named["x"].dtype not in TORCH_DTYPES.values():
        raise OpError(f"x is {named['x'].dtype}; expected one of {', '.join(map(str, TORCH_DTYPES.values()))}")
    for name, tensor in named.items():
        expected = torch.int8 if name in INT8_INPUTS else torch.float32
        if name != "x" and tensor.dtype != expected:
            raise OpError(f"{name} is {tensor.dtype}; expected {expected}")
        if tensor.device != named["x"].device:
            raise OpError(f"{name} is on {tensor.device} but x is on {named['x'].device}")
