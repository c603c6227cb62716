"""GEMM 1: hidden = act(x W1 + b1), or act(x W1 + b1) * (x V1 + c1), only in the tiles of the staircase."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.activation import activate
from acm_export.plugins.kernels.staircase import active_tile, grouped, padded


@triton.jit(do_not_specialize=["first_row", "num_rows", "num_learners", "activation"])
def up(
    x,  # (num_tokens, model_dim), T
    order,  # (num_tokens,), int32: the token at each sorted row
    reach,  # (num_learners + 1,), int32
    w1,  # (model_dim, num_learners * hidden_dim), T
    b1,  # (num_learners * hidden_dim,), T
    v1,  # (model_dim, num_learners * hidden_dim), T; None if learners are not GLUs
    c1,  # (num_learners * hidden_dim,), T; None if learners are not GLUs
    hidden,  # out: (rows of a chunk, num_learners * padded(hidden_dim)), T
    first_row,
    num_rows,
    model_dim,
    hidden_dim,
    num_learners,
    activation,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    ACTIVATION_PRECISION: tl.constexpr,
):
    """One tile of hidden values of one learner for sorted rows ``first_row ..``.

    Rows of the tile that do not run the learner get arbitrary values; GEMM 2 drops them.

    Grid: all tiles of the chunk, ``cdiv(num_rows, BLOCK_M) * num_learners * cdiv(hidden_dim, BLOCK_N)``; tiles that no
    token needs come last and return at once. EVEN: model_dim is a multiple of BLOCK_K and hidden_dim of BLOCK_N.
    """
    num_columns = tl.cdiv(hidden_dim, BLOCK_N)
    learner, tile, rows_here = active_tile(
        reach, tl.program_id(0), first_row, num_rows, num_columns, num_learners, BLOCK_M
    )
    if learner >= num_learners:
        return
    row_tile, column_tile = grouped(tile, tl.cdiv(rows_here, BLOCK_M), num_columns, GROUP)
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.load(order + first_row + row, mask=row < rows_here, other=0)
    k = tl.arange(0, BLOCK_K)
    width = num_learners * hidden_dim
    a = x + token.to(tl.int64)[:, None] * model_dim + k[None, :]
    b = w1 + k.to(tl.int64)[:, None] * width + (learner * hidden_dim + column)[None, :]
    b_step = tl.cast(width, tl.int64) * BLOCK_K
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if v1 is not None:
        c = v1 + k.to(tl.int64)[:, None] * width + (learner * hidden_dim + column)[None, :]
        factor = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, model_dim, BLOCK_K):
        if EVEN:
            a_tile = tl.load(a)
            b_tile = tl.load(b)
        else:
            inside = start + k < model_dim
            a_tile = tl.load(a, mask=inside[None, :], other=0.0)
            b_mask = inside[:, None] & (column < hidden_dim)[None, :]
            b_tile = tl.load(b, mask=b_mask, other=0.0)
        total = tl.dot(a_tile, b_tile, total, input_precision=PRECISION)
        if v1 is not None:
            c_tile = tl.load(c) if EVEN else tl.load(c, mask=b_mask, other=0.0)
            factor = tl.dot(a_tile, c_tile, factor, input_precision=PRECISION)
            c += b_step
        a += BLOCK_K
        b += b_step
    bias = tl.load(b1 + learner * hidden_dim + column, mask=column < hidden_dim, other=0.0)
    value = activate(total + bias.to(tl.float32)[None, :], activation, ACTIVATION_PRECISION)
    if v1 is not None:
        c_bias = tl.load(c1 + learner * hidden_dim + column, mask=column < hidden_dim, other=0.0)
        value *= factor + c_bias.to(tl.float32)[None, :]
    width_padded = padded(hidden_dim)
    out = (
        hidden + row.to(tl.int64)[:, None] * (num_learners * width_padded) + (learner * width_padded + column)[None, :]
    )
    tl.store(out, value.to(hidden.dtype.element_ty), mask=(column < hidden_dim)[None, :])
