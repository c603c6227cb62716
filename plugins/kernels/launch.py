"""Run the kernels on PyTorch tensors: on a GPU, or interpreted on a CPU (``TRITON_INTERPRET=1``).

On GPUs with kernels in CUDA, all kernels come from the pack, if there is one. Elsewhere Triton compiles them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS, Signature
from acm_export.plugins.kernels import down, grids, plan, routing, up
from acm_export.plugins.kernels.packed import packed_kernels
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import GROUP, Entry, Tile, entries, select
from acm_export.plugins.kernels.variants import PLAIN_WARPS, activation_precision

if TYPE_CHECKING:
    from acm_export.plugins.kernels.packed import PackedKernels

_OF_ROUTING = ("gate_logits", "thresholds", "counts")
"""Tensors that are never loaded 16 bytes at a time."""

_INTERPRETED = "sm_80"
"""Architecture whose tiles the interpreter uses."""


def precision_of(dtype: torch.dtype, *, allow_tf32: bool) -> str:
    """Name of a dtype in the tile table: ``half``, ``fp32`` or ``tf32``."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if allow_tf32 else "fp32"


def architecture(device: torch.device) -> str:
    """Architecture of a device, as in ``sm_90``."""
    if device.type == "cpu":
        return _INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def usable_pack(device: torch.device) -> PackedKernels | None:
    """Kernels of the pack, on GPUs for which there are kernels in CUDA."""
    arch = architecture(device)
    return packed_kernels(device, arch) if device.type != "cpu" and arch in _with_cuda() else None


@cache
def _with_cuda() -> frozenset[str]:
    """Architectures for which the tile table has kernels in CUDA."""
    return frozenset(arch for entry in entries() if entry.language == "cuda" for arch in entry.archs)


def gated_learners(
    x: torch.Tensor,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    signature: Signature,
    *,
    v1: torch.Tensor | None = None,
    c1: torch.Tensor | None = None,
    allow_tf32: bool = False,
    entry: Entry | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the operator GatedLearners, or with v1 and c1 GLUGatedLearners (docs/op.md), asynchronously.

    Args:
        x: ``[..., D]``, float32, float16 or bfloat16 (T).
        gate_logits: ``[..., C]``, float32.
        thresholds: ``[N]``, float32.
        w1: ``[D, N*h]``, T.
        b1: ``[N*h]``, T.
        w2: ``[N*h, D]``, T.
        b2: ``[N+1, D]``, T.
        signature: N, min_learners and the activation. Shapes and dtypes are not checked here.
        v1: ``[D, N*h]``, T, of GLUGatedLearners.
        c1: ``[N*h]``, T, of GLUGatedLearners.
        allow_tf32: Round float32 operands to TF32.
        entry: Tile sizes; Triton compiles its kernels for them. By default those of the tile table.

    Returns:
        y ``[..., D]``, T, and counts ``[...]``, int32.

    Raises:
        KernelError: There are no kernels for this architecture, or too many tokens.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    counts = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    if not counts.numel():
        return y, counts
    problem = Problem(
        counts.numel(),
        x.shape[-1],
        w1.shape[1] // signature.num_learners,
        signature.num_learners,
        signature.min_learners,
        x.element_size(),
        signature.glu,
    )
    precision = precision_of(x.dtype, allow_tf32=allow_tf32)
    given = {
        "x": x,
        "gate_logits": gate_logits,
        "thresholds": thresholds,
        "w1": w1,
        "b1": b1,
        "v1": v1,
        "c1": c1,
        "w2": w2,
        "b2": b2,
    }
    tensors = contiguous(given) | {"y": y, "counts": counts}
    aligned = plan.aligned(problem, *wide_addresses(tensors))
    packed = usable_pack(x.device)
    compile_here = entry is not None and entry.language == "triton"
    entry = entry or select(architecture(x.device), precision, problem, aligned=aligned, packed=packed is not None)
    with torch.cuda.device_of(x):
        if packed is not None and not compile_here:
            stream = torch.cuda.current_stream(x.device).cuda_stream
            packed.run(problem, entry, signature.activation, precision, tensors, stream=stream)
        elif entry.language == "triton":
            space = Space(problem, x.dtype, x.device)
            tensors |= {
                "order": space.order,
                "reach": space.reach,
                "arrivals": space.arrivals,
                "hidden": space.hidden,
                "partial": space.partial,
            }
            num_arrivals = grids.num_arrivals(problem, entry)
            route(problem, tensors["gate_logits"], tensors["thresholds"], counts, space, num_arrivals=num_arrivals)
            run_gemms(problem, entry, signature.activation, tensors, precision)
        else:
            raise KernelError("these tile sizes need kernels in CUDA, and no kernel pack has them")
    return y, counts


def contiguous(tensors: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """The tensors that there are, each contiguous."""
    return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}


def wide_addresses(tensors: dict[str, torch.Tensor]) -> list[int]:
    """Addresses of the tensors that kernels load or store 16 bytes at a time where they can."""
    return [tensor.data_ptr() for name, tensor in tensors.items() if name not in _OF_ROUTING]


def run_gemms(
    problem: Problem, entry: Entry, activation: str, tensors: dict[str, torch.Tensor], precision: str
) -> None:
    """Run both GEMMs with Triton's kernels, for routed tokens.

    Args:
        problem: Shapes.
        entry: Tile sizes.
        activation: One of :data:`acm_export.op.ACTIVATIONS`.
        tensors: Tensors by the names of the kernels' arguments; v1 and c1 only if learners are GLUs.
        precision: One of :data:`acm_export.plugins.kernels.tiles.PRECISIONS`.
    """
    even_up, even_down = grids.even(problem, entry)
    sizes = (problem.model_dim, problem.hidden_dim, problem.num_learners)
    hidden, order, reach, counts, b2, y = (tensors[name] for name in ("hidden", "order", "reach", "counts", "b2", "y"))
    input_precision = "tf32" if precision == "tf32" else "ieee"
    for first, rows in problem.chunks():
        up.up[(grids.up_grid(problem, entry, rows),)](
            tensors["x"],
            order,
            reach,
            tensors["w1"],
            tensors["b1"],
            tensors.get("v1"),
            tensors.get("c1"),
            hidden,
            first,
            rows,
            *sizes,
            ACTIVATIONS.index(activation),
            GROUP=GROUP,
            EVEN=even_up,
            PRECISION=input_precision,
            ACTIVATION_PRECISION=activation_precision(precision, interpreted=not hidden.is_cuda),
            **tile_constants(entry.up_for(problem)),
        )
        blocks = grids.down_grid(problem, entry, rows)
        if entry.split:
            down.down_split[(blocks, problem.num_learners * entry.split)](
                hidden,
                order,
                counts,
                reach,
                tensors["w2"],
                b2,
                tensors["partial"],
                tensors["arrivals"],
                y,
                rows,
                *sizes,
                EVEN=even_down,
                PRECISION=input_precision,
                SPLIT=entry.split,
                **tile_constants(entry.down),
            )
        else:
            down.down[(blocks,)](
                hidden,
                order,
                counts,
                reach,
                tensors["w2"],
                b2,
                y,
                first,
                rows,
                *sizes,
                GROUP=GROUP,
                EVEN=even_down,
                PRECISION=input_precision,
                **tile_constants(entry.down),
            )


class Space:
    """The workspace of one call, cut into its arrays (plan.py, ``Workspace``).

    Args:
        problem: Shapes.
        dtype: dtype of hidden values; int8 for the int8 operator, whose partial sums are int32.
        device: Where to allocate it.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype, device: torch.device) -> None:
        layout = plan.workspace(problem)
        memory = torch.empty(layout.size, dtype=torch.uint8, device=device)
        ints = memory.view(torch.int32)
        self.reach = ints[layout.reach // 4 :]
        self.order = ints[layout.order // 4 :]
        self.histograms = ints[layout.histograms // 4 :]
        self.arrivals = ints[layout.arrivals // 4 :]
        self.q = memory[layout.q : layout.hidden].view(torch.int8)
        self.hidden = memory[layout.hidden : layout.partial].view(dtype)
        self.partial = memory[layout.partial :].view(torch.int32 if dtype == torch.int8 else torch.float32)


def route(
    problem: Problem,
    gate_logits: torch.Tensor,
    thresholds: torch.Tensor,
    counts: torch.Tensor,
    space: Space,
    *,
    num_arrivals: int = 0,
) -> None:
    """Compute counts, the order of the tokens, and how many tokens reach each learner.

    Args:
        problem: Shapes.
        gate_logits: ``[tokens, C]``, float32.
        thresholds: ``[N]``, float32.
        counts: Output, int32, one per token.
        space: Workspace; ``order`` and ``reach`` are written.
        num_arrivals: How many arrivals of the workspace to set to 0.
    """
    blocks = plan.routing(problem)
    sizes = (problem.tokens, problem.num_choices, problem.min_learners)
    constants: dict[str, int] = {"BLOCK": blocks.block, "CHOICES": blocks.choices, "num_warps": PLAIN_WARPS}
    if blocks.num_blocks == 1:
        routing.route_one_block[(1,)](
            gate_logits, thresholds, counts, space.order, space.reach, space.arrivals, *sizes, num_arrivals, **constants
        )
        return
    grid, pieces = (blocks.num_blocks,), blocks.num_pieces
    routing.count_tokens[grid](gate_logits, thresholds, counts, space.histograms, *sizes, pieces, **constants)
    routing.place_tokens[grid](
        counts, space.histograms, space.order, space.reach, space.arrivals, *sizes, pieces, num_arrivals, **constants
    )


def tile_constants(tile: Tile) -> dict[str, int]:
    """Tile sizes and launch parameters of a GEMM, by the names that Triton takes."""
    return {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **({"maxnreg": tile.registers} if tile.registers else {}),
    }
