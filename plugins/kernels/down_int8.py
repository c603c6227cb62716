"""GEMM 2 of the int8 operator: y = hidden W2 * s2 + b2[count], with one int32 sum over all learners of a token."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.staircase import grouped, learners_of_row, padded
from acm_export.plugins.kernels.up_int8 import HALVES


@triton.jit
def _multiply(
    total,  # (BLOCK_M, BLOCK_N), int32: what to add to
    hidden,  # (rows, num_learners * padded(hidden_dim)), int8
    w2_t,  # (model_dim, num_learners * hidden_dim), int8
    row,  # (BLOCK_M,)
    column,  # (BLOCK_N,)
    first_step,
    last_step,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Add the product over K: ``cdiv(hidden_dim, BLOCK_K)`` steps per learner; no step crosses learners."""
    half_k: tl.constexpr = BLOCK_K // HALVES
    k = tl.arange(0, half_k)
    width = padded(hidden_dim)
    a_rows = hidden + row.to(tl.int64)[:, None] * (num_learners * width)
    b_columns = w2_t + column.to(tl.int64)[None, :] * (num_learners * hidden_dim)
    if EVEN:  # learners lie side by side without gaps
        a = a_rows + first_step * BLOCK_K + k[None, :]
        b = b_columns + first_step * BLOCK_K + k[:, None]
        for _ in range(first_step, last_step):
            for half in tl.static_range(HALVES):
                total = tl.dot(tl.load(a + half * half_k), tl.load(b + half * half_k), total, out_dtype=tl.int32)
            a += BLOCK_K
            b += BLOCK_K
    else:
        steps = tl.cdiv(hidden_dim, BLOCK_K)
        for step in range(first_step, last_step):
            learner = step // steps
            for half in tl.static_range(HALVES):
                j = step % steps * BLOCK_K + half * half_k + k
                inside = j < hidden_dim
                a = tl.load(a_rows + (learner * width + j)[None, :], mask=inside[None, :], other=0)
                b = tl.load(
                    b_columns + (learner * hidden_dim + j)[:, None],
                    mask=inside[:, None] & (column < model_dim)[None, :],
                    other=0,
                )
                total = tl.dot(a, b, total, out_dtype=tl.int32)
    return total


@triton.jit
def _store(
    total,  # (BLOCK_M, BLOCK_N), int32
    token,  # (BLOCK_M,)
    count,  # (BLOCK_M,)
    s2,
    b2,
    y,
    column,  # (BLOCK_N,)
    inside,  # (BLOCK_M, BLOCK_N)
    model_dim,
):
    """Scale the sums, add the bias of each token's count, and write y."""
    scale = tl.load(s2 + column, mask=column < model_dim, other=0.0)
    bias = tl.load(b2 + count.to(tl.int64)[:, None] * model_dim + column[None, :], mask=inside, other=0.0)
    out = y + token.to(tl.int64)[:, None] * model_dim + column[None, :]
    value = total.to(tl.float32) * scale[None, :] + bias
    tl.store(out, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first_row", "num_rows", "num_learners"])
def down_int8(
    hidden,  # (rows of a chunk, num_learners * padded(hidden_dim)), int8
    order,  # (num_tokens,), int32: the token at each sorted row
    counts,  # (num_tokens,), int32
    reach,  # (num_learners + 1,), int32
    w2_t,  # (model_dim, num_learners * hidden_dim), int8
    s2,  # (model_dim,), float32
    b2,  # (num_learners + 1, model_dim), float32
    y,  # out: (num_tokens, model_dim), T
    first_row,
    num_rows,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One tile of y for sorted rows ``first_row ..``, as in ``down``.

    W2 is transposed, as W1 in ``up_int8``. EVEN: hidden_dim is a multiple of BLOCK_K and of 16, and model_dim of
    BLOCK_N.
    """
    row_tile, column_tile = grouped(tl.program_id(0), tl.cdiv(num_rows, BLOCK_M), tl.cdiv(model_dim, BLOCK_N), GROUP)
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    first = first_row + row_tile * BLOCK_M
    most = learners_of_row(reach, first, num_learners)
    fewest = learners_of_row(reach, min(first + BLOCK_M, first_row + num_rows) - 1, num_learners)
    steps = tl.cdiv(hidden_dim, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    # As in ``down``: learners of only some rows first, after each of which the sums of the other rows are reset.
    for learners in tl.range(most, fewest - 1, -1, disable_licm=True):
        total = _multiply(
            total,
            hidden,
            w2_t,
            row,
            column,
            tl.where(learners > fewest, learners - 1, 0) * steps,
            learners * steps,
            model_dim,
            hidden_dim,
            num_learners,
            BLOCK_K,
            EVEN,
        )
        total = tl.where((first_row + row < tl.load(reach + learners))[:, None], total, 0)
    inside = row < num_rows
    token = tl.load(order + first_row + row, mask=inside, other=0)
    count = tl.load(counts + token, mask=inside, other=0)
    _store(total, token, count, s2, b2, y, column, inside[:, None] & (column < model_dim)[None, :], model_dim)


@triton.jit(do_not_specialize=["num_rows", "num_learners"])
def down_split_int8(
    hidden,  # (num_rows, num_learners * padded(hidden_dim)), int8
    order,  # (num_rows,), int32: the token at each sorted row
    counts,  # (num_rows,), int32
    reach,  # (num_learners + 1,), int32
    w2_t,  # (model_dim, num_learners * hidden_dim), int8
    s2,  # (model_dim,), float32
    b2,  # (num_learners + 1, model_dim), float32
    partial,  # scratch: (num_learners * SPLIT, num_rows, model_dim), int32
    arrivals,  # in: (tiles,), int32, 0
    y,  # out: (num_rows, model_dim), T
    num_rows,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One tile of the product of one slice of one learner, as in ``down_split``; the sums are exact in any order."""
    num_columns = tl.cdiv(model_dim, BLOCK_N)
    tile = tl.program_id(0)
    row_tile = tile // num_columns
    piece = tl.program_id(1)
    pieces = learners_of_row(reach, row_tile * BLOCK_M, num_learners) * SPLIT
    if piece >= max(pieces, 1):
        return
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile % num_columns * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < num_rows)[:, None] & (column < model_dim)[None, :]
    place = row.to(tl.int64)[:, None] * model_dim + column[None, :]
    done_before = pieces - 1  # without any learner there is nothing to wait for
    if pieces > 0:
        steps = tl.cdiv(hidden_dim, BLOCK_K)
        steps_here = tl.cdiv(steps, SPLIT)
        first_step = min(piece % SPLIT * steps_here, steps)
        last_step = min(first_step + steps_here, steps)
        learner = piece // SPLIT
        product = _multiply(
            tl.zeros((BLOCK_M, BLOCK_N), tl.int32),
            hidden,
            w2_t,
            row,
            column,
            learner * steps + first_step,
            learner * steps + last_step,
            model_dim,
            hidden_dim,
            num_learners,
            BLOCK_K,
            EVEN,
        )
        tl.store(partial + piece.to(tl.int64) * num_rows * model_dim + place, product, mask=inside)
        tl.debug_barrier()  # all threads of the block have stored before it is counted
        done_before = tl.atomic_add(arrivals + tile, 1, sem="acq_rel")
    if done_before < pieces - 1:
        return
    token = tl.load(order + row, mask=row < num_rows, other=0)
    count = tl.load(counts + token, mask=row < num_rows, other=0)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for i in range(pieces):
        part = partial + tl.cast(i, tl.int64) * num_rows * model_dim + place
        runs = inside & (i < count * SPLIT)[:, None]
        total += tl.load(part, mask=runs, other=0, cache_modifier=".cg")  # written by other blocks, so not from L1
    _store(total, token, count, s2, b2, y, column, inside, model_dim)
