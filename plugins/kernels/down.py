"""GEMM 2: y = hidden W2 + b2[count]; each tile of rows computes the learners that its first row runs."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.staircase import grouped, learners_of_row, padded


@triton.jit
def _multiply(
    total,  # (BLOCK_M, BLOCK_N), float32: what to add to
    hidden,  # (rows, num_learners * padded(hidden_dim)), T
    w2,  # (num_learners * hidden_dim, model_dim), T
    row,  # (BLOCK_M,)
    column,  # (BLOCK_N,)
    first_step,
    last_step,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the product over K: ``cdiv(hidden_dim, BLOCK_K)`` steps per learner; no step crosses learners."""
    k = tl.arange(0, BLOCK_K)
    width = padded(hidden_dim)
    a_rows = hidden + row.to(tl.int64)[:, None] * (num_learners * width)
    if EVEN:  # learners lie side by side without gaps
        a = a_rows + first_step * BLOCK_K + k[None, :]
        b = w2 + (first_step * BLOCK_K + k).to(tl.int64)[:, None] * model_dim + column[None, :]
        b_step = tl.cast(model_dim, tl.int64) * BLOCK_K
        for _ in range(first_step, last_step):
            total = tl.dot(tl.load(a), tl.load(b), total, input_precision=PRECISION)
            a += BLOCK_K
            b += b_step
    else:
        steps = tl.cdiv(hidden_dim, BLOCK_K)
        for step in range(first_step, last_step):
            learner = step // steps
            j = step % steps * BLOCK_K + k
            inside = j < hidden_dim
            a = tl.load(a_rows + (learner * width + j)[None, :], mask=inside[None, :], other=0.0)
            b = tl.load(
                w2 + (learner * hidden_dim + j).to(tl.int64)[:, None] * model_dim + column[None, :],
                mask=inside[:, None] & (column < model_dim)[None, :],
                other=0.0,
            )
            total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["first_row", "num_rows", "num_learners"])
def down(
    hidden,  # (rows of a chunk, num_learners * padded(hidden_dim)), T
    order,  # (num_tokens,), int32: the token at each sorted row
    counts,  # (num_tokens,), int32
    reach,  # (num_learners + 1,), int32
    w2,  # (num_learners * hidden_dim, model_dim), T
    b2,  # (num_learners + 1, model_dim), T
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
    PRECISION: tl.constexpr,
):
    """One tile of y for sorted rows ``first_row ..``. Grid: ``cdiv(num_rows, BLOCK_M) * cdiv(model_dim, BLOCK_N)``.

    Rows with many learners come first. EVEN: hidden_dim is a multiple of BLOCK_K and of 16, and model_dim of BLOCK_N.
    """
    row_tile, column_tile = grouped(tl.program_id(0), tl.cdiv(num_rows, BLOCK_M), tl.cdiv(model_dim, BLOCK_N), GROUP)
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    first = first_row + row_tile * BLOCK_M
    most = learners_of_row(reach, first, num_learners)
    fewest = learners_of_row(reach, min(first + BLOCK_M, first_row + num_rows) - 1, num_learners)
    steps = tl.cdiv(hidden_dim, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # First the learners that only some of the rows run, from the last one down. After each, the sums of rows that do
    # not run it are reset: 0 times a weight is NaN if the weight is not finite. Then all learners that every row runs,
    # at once; most tiles have only those. Hoisting out of the outer loop would spill registers on sm_90.
    for learners in tl.range(most, fewest - 1, -1, disable_licm=True):
        total = _multiply(
            total,
            hidden,
            w2,
            row,
            column,
            tl.where(learners > fewest, learners - 1, 0) * steps,
            learners * steps,
            model_dim,
            hidden_dim,
            num_learners,
            BLOCK_K,
            EVEN,
            PRECISION,
        )
        total = tl.where((first_row + row < tl.load(reach + learners))[:, None], total, 0.0)
    inside = row < num_rows
    token = tl.load(order + first_row + row, mask=inside, other=0)
    count = tl.load(counts + token, mask=inside, other=0)
    mask = inside[:, None] & (column < model_dim)[None, :]
    bias = tl.load(b2 + count.to(tl.int64)[:, None] * model_dim + column[None, :], mask=mask, other=0.0)
    out = y + token.to(tl.int64)[:, None] * model_dim + column[None, :]
    tl.store(out, (total + bias.to(tl.float32)).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_learners"])
def down_split(
    hidden,  # (num_rows, num_learners * padded(hidden_dim)), T
    order,  # (num_rows,), int32: the token at each sorted row
    counts,  # (num_rows,), int32
    reach,  # (num_learners + 1,), int32
    w2,  # (num_learners * hidden_dim, model_dim), T
    b2,  # (num_learners + 1, model_dim), T
    partial,  # scratch: (num_learners * SPLIT, num_rows, model_dim), float32
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
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One tile of the product of one slice of one learner. For few tokens: it makes more blocks, each with a short K.

    Grid: (``cdiv(num_rows, BLOCK_M) * cdiv(model_dim, BLOCK_N)``, num_learners * SPLIT). Slices of learners that no row
    of the tile runs are neither computed nor written, so their weights are not read. The last block of a tile to finish
    its slice adds up the slices, always in the same order, and writes y.
    """
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
            tl.zeros((BLOCK_M, BLOCK_N), tl.float32),
            hidden,
            w2,
            row,
            column,
            learner * steps + first_step,
            learner * steps + last_step,
            model_dim,
            hidden_dim,
            num_learners,
            BLOCK_K,
            EVEN,
            PRECISION,
        )
        tl.store(partial + piece.to(tl.int64) * num_rows * model_dim + place, product, mask=inside)
        tl.debug_barrier()  # all threads of the block have stored before it is counted
        done_before = tl.atomic_add(arrivals + tile, 1, sem="acq_rel")
    if done_before < pieces - 1:
        return
    token = tl.load(order + row, mask=row < num_rows, other=0)
    count = tl.load(counts + token, mask=row < num_rows, other=0)
    bias = tl.load(b2 + count.to(tl.int64)[:, None] * model_dim + column[None, :], mask=inside, other=0.0)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(pieces):
        part = partial + tl.cast(i, tl.int64) * num_rows * model_dim + place
        runs = inside & (i < count * SPLIT)[:, None]
        total += tl.load(part, mask=runs, other=0.0, cache_modifier=".cg")  # written by other blocks, so not from L1
    out = y + token.to(tl.int64)[:, None] * model_dim + column[None, :]
    tl.store(out, (total + bias.to(tl.float32)).to(y.dtype.element_ty), mask=inside)
