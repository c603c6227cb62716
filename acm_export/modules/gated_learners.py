"""``acm::gated_learners`` and ``acm::glu_gated_learners``: the operators as PyTorch ops that skip idle learners.

Each is one op so that ``torch.export`` keeps it whole and ``torch.compile`` does not trace into it. On NVIDIA GPUs they
run the staircase kernels (acm_export.plugins.kernels); elsewhere they run each learner on the tokens that need it.
"""

from __future__ import annotations

from typing import Any

import torch

from acm_export.base.errors import OpError
from acm_export.base.optional import require
from acm_export.modules.activations import activation_fn
from acm_export.op.precision import PRECISIONS
from acm_export.op.schema import infer_shapes
from acm_export.op.signature import Signature

TORCH_DTYPES: dict[str, torch.dtype] = {p.name: getattr(torch, p.torch_name) for p in PRECISIONS.values()}
"""The dtype of each precision, by the name of the precision."""


@torch.library.custom_op("acm::gated_learners", mutates_args=())
def gated_learners(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    num_learners: int,
    min_learners: int,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run learners 1..count of every token and sum them (docs/op.md).

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        w1: ``[D, N*h]``, T.
        b1: ``[N*h]``, T.
        w2: ``[N*h, D]``, T.
        b2: ``[N+1, D]``, T; row k is the whole output bias of a token with count k.
        num_learners: N.
        min_learners: Learners that always run.
        activation: One of :data:`acm_export.op.ACTIVATIONS`.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32. Hidden values are rounded to T; sums are float32. On a GPU
        the op never synchronises with the device, and float32 does not use TF32 unless
        ``torch.backends.cuda.matmul.fp32_precision`` is ``"tf32"``.

    Raises:
        OpError: Shapes, dtypes or attributes violate docs/op.md; the message has both values.
        KernelError: The GPU is older than sm_80, or the kernels do not support it.
    """
    signature = Signature(num_learners, min_learners, activation)
    tensors = (x, gate_logits, thresholds, w1, b1, w2, b2)
    return _run(dict(zip(signature.inputs, tensors, strict=True)), signature)


@torch.library.custom_op("acm::glu_gated_learners", mutates_args=())
def glu_gated_learners(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    v1: torch.Tensor,
    c1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    num_learners: int,
    min_learners: int,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`gated_learners`, with learners ``(act(x W1 + b1) * (x V1 + c1)) W2``.

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        w1: ``[D, N*h]``, T.
        b1: ``[N*h]``, T.
        v1: ``[D, N*h]``, T.
        c1: ``[N*h]``, T.
        w2: ``[N*h, D]``, T.
        b2: ``[N+1, D]``, T; row k is the whole output bias of a token with count k.
        num_learners: N.
        min_learners: Learners that always run.
        activation: One of :data:`acm_export.op.ACTIVATIONS`: silu for SwiGLU, gelu or gelu_tanh for GeGLU.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32. The hidden product is formed in float32 and rounded to T once.

    Raises:
        OpError: Shapes, dtypes or attributes violate docs/op.md; the message has both values.
        KernelError: The GPU is older than sm_80, or the kernels do not support it.
    """
    signature = Signature(num_learners, min_learners, activation, glu=True)
    tensors = (x, gate_logits, thresholds, w1, b1, v1, c1, w2, b2)
    return _run(dict(zip(signature.inputs, tensors, strict=True)), signature)


def _run(named: dict[str, torch.Tensor], signature: Signature) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the tensors, and run the kernels on a GPU, or each learner on the tokens that need it elsewhere."""
    _check(named, signature)
    return _run_kernels(named, signature) if named["x"].is_cuda else _run_in_pytorch(named, signature)


def _run_in_pytorch(named: dict[str, torch.Tensor], signature: Signature) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens sorted by count, and each learner on its prefix of them."""
    x, w1, b1, w2, b2 = (named[name] for name in ("x", "w1", "b1", "w2", "b2"))
    counts = learner_counts(named["gate_logits"], named["thresholds"], signature.min_learners)
    rows, row_counts = x.reshape(-1, x.shape[-1]), counts.reshape(-1)
    order = torch.argsort(row_counts, descending=True, stable=True)
    totals = (row_counts.unsqueeze(1) > torch.arange(signature.num_learners, device=x.device)).sum(0).tolist()
    sorted_rows = rows[order]
    sums = b2[row_counts[order]].float()
    hidden = w1.shape[1] // signature.num_learners
    act = activation_fn(signature.activation)
    for learner, total in enumerate(totals):
        if total == 0:
            break
        part = slice(learner * hidden, (learner + 1) * hidden)
        tokens = sorted_rows[:total].float()
        values = act(torch.addmm(b1[part].float(), tokens, w1[:, part].float()))
        if signature.glu:
            values = values * torch.addmm(named["c1"][part].float(), tokens, named["v1"][:, part].float())
        sums[:total] += values.to(x.dtype).float() @ w2[part].float()
    y = torch.empty_like(rows, memory_format=torch.contiguous_format)
    y[order] = sums.to(x.dtype)
    return y.reshape(x.shape), counts


def _run_kernels(named: dict[str, Any], signature: Signature) -> tuple[torch.Tensor, torch.Tensor]:
    require("triton")
    from acm_export.plugins.kernels.launch import gated_learners as run_kernels

    allow_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return run_kernels(**named, signature=signature, allow_tf32=allow_tf32)


@gated_learners.register_fake
@glu_gated_learners.register_fake
def _(x: torch.Tensor, gate_logits: torch.Tensor, *_: torch.Tensor | int | str) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, gate_logits.new_empty(gate_logits.shape[:-1], dtype=torch.int32)


def margins(gate_logits: torch.Tensor) -> torch.Tensor:
    """Margins ``[..., C - 1]`` of gate logits ``[..., C]``, float32; NaN for tokens with a NaN logit."""
    choices = gate_logits.shape[-1]
    if choices == 1:
        return gate_logits.new_empty((*gate_logits.shape[:-1], 0))
    lower = torch.cummax(gate_logits, -1).values[..., :-1]
    upper = torch.cummax(gate_logits.flip(-1), -1).values.flip(-1)[..., 1:]
    nan = gate_logits.isnan().any(-1, keepdim=True)
    return torch.where(nan, torch.nan, upper - lower)


def learner_counts(gate_logits: torch.Tensor, thresholds: torch.Tensor, min_learners: int) -> torch.Tensor:
    """Counts ``[...]``, int32: ``min_learners`` plus the longest prefix of learners whose margin is above τ."""
    runs = margins(gate_logits) > thresholds[min_learners:]
    return (min_learners + runs.int().cumprod(-1).sum(-1)).int()


def _check(named: dict[str, torch.Tensor], signature: Signature) -> None:
    infer_shapes([list(tensor.shape) for tensor in named.values()], signature)
    dtype = named["x"].dtype
    if dtype not in TORCH_DTYPES.values():
        raise OpError(f"x is {dtype}; expected one of {', '.join(map(str, TORCH_DTYPES.values()))}")
    float32 = ("gate_logits", "thresholds")
    for name in signature.inputs[1:]:
        if name not in float32 and named[name].dtype != dtype:
            raise OpError(f"{name} is {named[name].dtype} but x is {dtype}; they must be equal")
    if elsewhere := [name for name, tensor in named.items() if tensor.device != named["x"].device]:
        raise OpError(f"{elsewhere[0]} is on {named[elsewhere[0]].device} but x is on {named['x'].device}")
    for name in float32:
        if named[name].dtype != torch.float32:
            raise OpError(f"{name} is {named[name].dtype}; expected torch.float32 for every dtype of x")
