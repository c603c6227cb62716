"""Run the int8 kernels on PyTorch tensors: on a GPU, or interpreted on a CPU (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import down_int8, grids, plan, quantize_rows, up_int8
from acm_export.plugins.kernels.launch import (
    Space,
    architecture,
    contiguous,
    route,
    tile_constants,
    usable_pack,
    wide_addresses,
)
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import GROUP, Entry, select
from acm_export.plugins.kernels.variants import PLAIN_WARPS, activation_precision

if TYPE_CHECKING:
    from acm_export.op.quantized_signature import QuantizedSignature


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
    signature: QuantizedSignature,
    *,
    v1: torch.Tensor | None = None,
    t1: torch.Tensor | None = None,
    c1: torch.Tensor | None = None,
    entry: Entry | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run QuantizedGatedLearners, or with v1, t1 and c1 QuantizedGLUGatedLearners (docs/op.md), asynchronously.

    The kernels take weights contiguous along K. Pass them as ``weight.t()`` of contiguous ``[N*h, D]`` and
    ``[D, N*h]`` tensors; in any other layout they are copied on every call.

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        x_mult: ``[D]``, float32.
        w1: ``[D, N*h]``, int8.
        s1: ``[N*h]``, float32.
        b1: ``[N*h]``, float32.
        h_mult: ``[N]``, float32.
        h_zero: ``[N]``, int8.
        w2: ``[N*h, D]``, int8.
        s2: ``[D]``, float32.
        b2: ``[N+1, D]``, float32.
        signature: Attributes of the op. Shapes and dtypes are not checked here.
        v1: ``[D, N*h]``, int8, of QuantizedGLUGatedLearners.
        t1: ``[N*h]``, float32, of QuantizedGLUGatedLearners: the scales of v1.
        c1: ``[N*h]``, float32, of QuantizedGLUGatedLearners.
        entry: Tile sizes; Triton compiles its kernels for them. By default those of the tile table.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32.

    Raises:
        KernelError: ``dynamic`` is 1, there are no kernels for this architecture, or there are too many tokens.
    """
    if signature.dynamic:
        raise KernelError(
            "the kernels have no dynamic scales (dynamic = 1): they round hidden values before a token is complete",
            "quantize the model with --activations static",
        )
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    counts = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    if not counts.numel():
        return y, counts
    given = {
        "x": x,
        "gate_logits": gate_logits,
        "thresholds": thresholds,
        "x_mult": x_mult,
        "w1_t": w1.t(),
        "s1": s1,
        "b1": b1,
        "v1_t": None if v1 is None else v1.t(),
        "t1": t1,
        "c1": c1,
        "h_mult": h_mult,
        "h_zero": h_zero,
        "w2_t": w2.t(),
        "s2": s2,
        "b2": b2,
    }
    tensors = contiguous(given) | {"y": y, "counts": counts}
    n = signature.num_learners
    problem = Problem(counts.numel(), x.shape[-1], w1.shape[1] // n, n, signature.min_learners, 1, signature.glu)
    aligned = plan.aligned(problem, *wide_addresses(tensors))
    packed = usable_pack(x.device) if entry is None else None
    entry = entry or select(architecture(x.device), "int8", problem, aligned=aligned, packed=packed is not None)
    with torch.cuda.device_of(x):
        if packed is not None:
            stream = torch.cuda.current_stream(x.device).cuda_stream
            packed.run(problem, entry, signature.activation, "int8", tensors, stream=stream)
        else:
            space = Space(problem, torch.int8, x.device)
            num_arrivals = grids.num_arrivals(problem, entry)
            route(problem, tensors["gate_logits"], tensors["thresholds"], counts, space, num_arrivals=num_arrivals)
            _run_gemms(problem, entry, signature.activation, tensors, space)
    return y, counts


def _run_gemms(problem: Problem, entry: Entry, activation: str, tensors: dict[str, torch.Tensor], space: Space) -> None:
    """Quantise the rows of each chunk and run both GEMMs with Triton's kernels, for routed tokens."""
    for first, rows in problem.chunks():
        _quantize_rows(problem, tensors, space, first, rows)
        _run_up(problem, entry, activation, tensors, space, first, rows)
        _run_down(problem, entry, tensors, space, first, rows)


def _quantize_rows(problem: Problem, tensors: dict[str, torch.Tensor], space: Space, first: int, rows: int) -> None:
    """Write x in int8 to the workspace, for sorted rows ``first ..`` of ``rows``."""
    block_m, block_k = plan.QUANTIZE_BLOCK
    quantize_rows.quantize_rows[grids.quantize_grid(problem, rows)](
        tensors["x"],
        space.order,
        space.reach,
        tensors["x_mult"],
        space.q,
        first,
        rows,
        problem.model_dim,
        BLOCK_M=block_m,
        BLOCK_K=block_k,
        num_warps=PLAIN_WARPS,
    )


def _run_up(
    problem: Problem,
    entry: Entry,
    activation: str,
    tensors: dict[str, torch.Tensor],
    space: Space,
    first: int,
    rows: int,
) -> None:
    """GEMM 1 for sorted rows ``first ..`` of ``rows``."""
    up_int8.up_int8[(grids.up_grid(problem, entry, rows),)](
        space.q,
        space.reach,
        *(tensors.get(name) for name in ("w1_t", "s1", "b1", "v1_t", "t1", "c1", "h_mult", "h_zero")),
        space.hidden,
        first,
        rows,
        problem.model_dim,
        problem.hidden_dim,
        problem.num_learners,
        ACTIVATIONS.index(activation),
        GROUP=GROUP,
        EVEN=grids.even(problem, entry)[0],
        ACTIVATION_PRECISION=activation_precision("int8", interpreted=not space.q.is_cuda),
        **tile_constants(entry.up_for(problem)),
    )


def _run_down(
    problem: Problem, entry: Entry, tensors: dict[str, torch.Tensor], space: Space, first: int, rows: int
) -> None:
    even = grids.even(problem, entry)[1]
    counts, w2_t, s2, b2, y = (tensors[name] for name in ("counts", "w2_t", "s2", "b2", "y"))
    inputs = (space.hidden, space.order, counts, space.reach, w2_t, s2, b2)
    sizes = (rows, problem.model_dim, problem.hidden_dim, problem.num_learners)
    blocks = grids.down_grid(problem, entry, rows)
    constants = tile_constants(entry.down)
    if entry.split:
        down_int8.down_split_int8[(blocks, problem.num_learners * entry.split)](
            *inputs, space.partial, space.arrivals, y, *sizes, EVEN=even, SPLIT=entry.split, **constants
        )
    else:
        down_int8.down_int8[(blocks,)](*inputs, y, first, *sizes, GROUP=GROUP, EVEN=even, **constants)
