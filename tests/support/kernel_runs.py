"""Functions for the process that interprets: run kernels on numpy arrays, in memory that exposes wrong accesses.

All memory that the kernels' host code allocates is filled with bytes 0xFF (NaN in every T, -1 in int32), so a value
that was never written shows; bytes behind each array tell of writes beyond its end.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import torch

from acm_export.op import ACTIVATIONS, Signature
from acm_export.plugins.kernels import grids
from acm_export.plugins.kernels.plan import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.plugins.kernels.tiles import Entry

Array = np.ndarray[Any, Any]
_GUARD = 1024
UNWRITTEN = 0xFF

SMALL_BLOCKS = ((8, 16), (32, 16), (128, 16))
"""Routing blocks of few tokens: the interpreter takes long over large ones."""


def tensor(array: Array) -> torch.Tensor:
    """Convert an array to a torch tensor, bfloat16 included."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array(tensor: torch.Tensor) -> Array:
    """Convert a torch tensor to an array."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@contextmanager
def telltale_memory() -> Iterator[None]:
    """``torch.empty`` that fills memory and finds writes beyond its end."""
    guards: list[torch.Tensor] = []

    def empty(shape: Any, *, dtype: torch.dtype, device: Any) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = torch.full((size + _GUARD,), UNWRITTEN, dtype=torch.uint8, device=device)
        guards.append(memory[size:])
        return memory[:size].view(dtype).view(shape)

    with patch.object(torch, "empty", empty):
        yield
    assert all((guard == UNWRITTEN).all() for guard in guards), "a kernel wrote beyond the end of an array"


def operator(
    feeds: dict[str, Array],
    signature: Signature,
    *,
    entry: Entry | None = None,
    hidden_limit: int | None = None,
    routing_blocks: tuple[tuple[int, int], ...] = SMALL_BLOCKS,
    allow_tf32: bool = False,
    strided: bool = False,
) -> tuple[Array, Array]:
    """y and counts of the whole operator.

    Args:
        feeds: Inputs by name.
        signature: Attributes.
        entry: Tile sizes; by default the table's.
        hidden_limit: Instead of ``plan.HIDDEN_LIMIT``.
        routing_blocks: Instead of ``plan.ROUTING_BLOCKS``.
        allow_tf32: As the operator's flag.
        strided: Give x as a view that is not contiguous.
    """
    from acm_export.plugins.kernels import launch, plan

    tensors = {name: tensor(feeds[name]) for name in signature.inputs}
    if strided:
        tensors["x"] = tensors["x"].repeat_interleave(2, -1)[..., ::2]
    limits = {"HIDDEN_LIMIT": hidden_limit or plan.HIDDEN_LIMIT, "ROUTING_BLOCKS": routing_blocks}
    with patch.multiple(plan, **limits), telltale_memory():
        y, counts = launch.gated_learners(**tensors, signature=signature, allow_tf32=allow_tf32, entry=entry)
    return array(y), array(counts)


@dataclass(frozen=True)
class Routed:
    """Results of the routing kernels, and whether they wrote anything else."""

    counts: Array
    order: Array
    reach: Array
    elsewhere_untouched: bool


def route(
    gate_logits: Array,
    thresholds: Array,
    min_learners: int,
    *,
    routing_blocks: tuple[tuple[int, int], ...] = SMALL_BLOCKS,
    max_blocks: int = 3,
) -> Routed:
    """Run the routing kernels alone, on ``[tokens, C]``.

    Args:
        gate_logits: float32 ``[tokens, C]``.
        thresholds: float32 ``[N]``.
        min_learners: Learners that always run.
        routing_blocks: Instead of ``plan.ROUTING_BLOCKS``.
        max_blocks: Instead of ``plan.MAX_ROUTING_BLOCKS``.
    """
    from acm_export.plugins.kernels import launch, plan

    tokens, n = len(gate_logits), len(thresholds)
    problem = Problem(tokens, 16, 16, n, min_learners, 4)
    with patch.multiple(plan, ROUTING_BLOCKS=routing_blocks, MAX_ROUTING_BLOCKS=max_blocks), telltale_memory():
        counts = torch.empty((tokens,), dtype=torch.int32, device="cpu")
        space = launch.Space(problem, torch.float32, torch.device("cpu"))
        launch.route(problem, tensor(gate_logits), tensor(thresholds), counts, space)
    untouched = all((part.view(torch.uint8) == UNWRITTEN).all() for part in (space.hidden, space.partial))
    return Routed(array(counts), array(space.order[:tokens]), array(space.reach[: n + 1]), untouched)


def hidden_values(
    feeds: dict[str, Array], signature: Signature, counts: Array, entry: Entry, first: int, rows: int
) -> Array:
    """GEMM 1 alone: ``[rows rounded up to 128, N, h]`` for sorted rows ``first ..``, 0xFF where nothing was written."""
    from acm_export.plugins.kernels import launch, plan, up

    n, width = signature.num_learners, feeds["w1"].shape[1] // signature.num_learners
    sizes = (len(counts), feeds["x"].shape[-1], width, n, signature.min_learners, feeds["x"].itemsize)
    problem = Problem(*sizes, signature.glu)
    x, w1, b1, v1, c1 = (tensor(feeds[name]) if name in feeds else None for name in ("x", "w1", "b1", "v1", "c1"))
    assert x is not None
    order = torch.from_numpy(np.argsort(-counts, kind="stable").astype(np.int32))
    reach = torch.tensor([int((counts >= k).sum()) for k in range(n + 1)], dtype=torch.int32)
    padded, high = -(-width // 16) * 16, -(-rows // plan.ROWS) * plan.ROWS
    even, _ = grids.even(problem, entry)
    with telltale_memory():
        hidden = torch.empty((high, n, padded), dtype=x.dtype, device="cpu")
        up.up[(grids.up_grid(problem, entry, rows),)](
            x,
            order,
            reach,
            w1,
            b1,
            v1,
            c1,
            hidden,
            first,
            rows,
            problem.model_dim,
            width,
            n,
            ACTIVATIONS.index(signature.activation),
            GROUP=launch.GROUP,
            EVEN=even,
            PRECISION="ieee",
            ACTIVATION_PRECISION=0,
            **launch.tile_constants(entry.up_for(problem)),
        )
    return array(hidden)[:, :, :width]


def partial_sums(feeds: dict[str, Array], signature: Signature, entry: Entry) -> Array:
    """Partial sums of GEMM 2 for few tokens, ``[N, slices, sorted rows, D]``."""
    from acm_export.plugins.kernels import launch

    spaces: list[launch.Space] = []

    class Recorded(launch.Space):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            spaces.append(self)

    with patch.object(launch, "Space", Recorded):
        operator(feeds, signature, entry=entry)
    shape = (signature.num_learners, entry.split, *feeds["x"].shape)
    return array(spaces[0].partial[: int(np.prod(shape))].view(shape))


def beyond_32_bits() -> tuple[Array, Array] | None:
    """One tile of each GEMM for the last of 2**20 tokens with D = 2,560: x and y have more than 2**31 elements.

    Memory behind x and y is never touched except at the rows of few tokens, so it takes no room.

    Returns:
        y of the last tokens and what it is to be, or None where the system does not lend that much address space.
    """
    from acm_export.plugins.kernels import down, up

    tokens, width, rows = 1 << 20, 2560, 16
    try:
        x, y = (torch.empty(tokens * width, dtype=torch.float16).view(tokens, width) for _ in range(2))
    except RuntimeError:
        return None
    order = torch.arange(tokens - rows, tokens, dtype=torch.int32)
    last = torch.arange(1, rows + 1, dtype=torch.float16)
    x[-rows:] = 0
    x[-rows:, 0] = last
    counts = torch.empty(tokens, dtype=torch.int32)
    counts[-rows:] = 1
    reach = torch.tensor([rows, rows], dtype=torch.int32)
    w1, w2 = torch.zeros(width, 16, dtype=torch.float16), torch.zeros(16, width, dtype=torch.float16)
    w1[0], w2[0] = 1, 1
    b1, b2 = torch.zeros(16, dtype=torch.float16), torch.zeros(2, width, dtype=torch.float16)
    hidden = torch.empty(rows, 16, dtype=torch.float16)
    tile = {"BLOCK_M": rows, "BLOCK_N": 16, "BLOCK_K": 16, "GROUP": 1, "EVEN": True, "PRECISION": "ieee"}
    sizes = (0, rows, width, 16, 1)
    numbers = (*sizes, ACTIVATIONS.index("identity"))
    up.up[(1,)](x, order, reach, w1, b1, None, None, hidden, *numbers, ACTIVATION_PRECISION=0, **tile)
    down.down[(1,)](hidden, order, counts, reach, w2, b2, y, *sizes, **tile)
    return y[-rows:, :16].numpy().copy(), np.repeat(last[:, None].numpy(), 16, axis=1)


def activated(values: Array, activation: str, precision: int = 0) -> Array:
    """The kernels' activation of float32 values, in one of the precisions of activation.py."""
    from kernel_probes import activate_all

    padded = np.zeros(1 << (len(values) - 1).bit_length(), np.float32)
    padded[: len(values)] = values
    out = torch.empty(len(padded))
    activate_all[(1,)](
        torch.from_numpy(padded), out, ACTIVATIONS.index(activation), PRECISION=precision, SIZE=len(padded)
    )
    return out.numpy()[: len(values)]


def product(a: Array, b: Array, *, corrected: bool) -> Array:
    """``a b`` of bfloat16 matrices by ``tl.dot``."""
    from kernel_bfloat16 import product

    return product(a, b, corrected=corrected)


def rounded(values: Array, *, corrected: bool) -> Array:
    """float32 values as bfloat16."""
    from kernel_bfloat16 import rounded

    return rounded(values, corrected=corrected)
