"""GEMM 1 of the int8 operators, only in the tiles of the staircase.

hidden = int8(act(q W1 * s1 + b1)), or int8(act(q W1 * s1 + b1) * (q V1 * t1 + c1)).
"""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.activation import activate
from acm_export.plugins.kernels.rounding import scaled_int8
from acm_export.plugins.kernels.staircase import active_tile, grouped, padded

HALVES = tl.constexpr(2)
"""Products per step along K. With one, Triton prefetches operands on sm_8x and carries every byte of them through the
loop in a register of its own: 242 registers and 266 permutations for 32 products, instead of 96 and none."""


@triton.jit(do_not_specialize=["first_row", "num_rows", "num_learners", "activation"])
def up_int8(
    q,  # (rows of a chunk, padded(model_dim)), int8
    reach,  # (num_learners + 1,), int32
    w1_t,  # (num_learners * hidden_dim, model_dim), int8
    s1,  # (num_learners * hidden_dim,), float32
    b1,  # (num_learners * hidden_dim,), float32
    v1_t,  # (num_learners * hidden_dim, model_dim), int8; None if learners are not GLUs
    t1,  # (num_learners * hidden_dim,), float32; None if learners are not GLUs
    c1,  # (num_learners * hidden_dim,), float32; None if learners are not GLUs
    h_mult,  # (num_learners,), float32
    h_zero,  # (num_learners,), int8
    hidden,  # out: (rows of a chunk, num_learners * padded(hidden_dim)), int8
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
    ACTIVATION_PRECISION: tl.constexpr,
):
    """One tile of hidden values of one learner for sorted rows ``first_row ..``, as in ``up``.

    W1 and V1 are transposed: the matrix units take int8 operands only contiguous along K. EVEN: model_dim is a multiple
    of BLOCK_K and hidden_dim of BLOCK_N.
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
    half_k: tl.constexpr = BLOCK_K // HALVES
    k = tl.arange(0, half_k)
    pitch = padded(model_dim)
    written = tl.where(row < rows_here, row, 0)  # q has no other rows; those of the tile get arbitrary values
    a = q + written.to(tl.int64)[:, None] * pitch + k[None, :]
    b_column, b_row = (learner * hidden_dim + column).to(tl.int64)[None, :] * model_dim, k[:, None]
    b = w1_t + b_column + b_row
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    if v1_t is not None:
        c = v1_t + b_column + b_row
        factor = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for start in range(0, model_dim, BLOCK_K):
        for half in tl.static_range(HALVES):
            if EVEN:
                a_tile = tl.load(a + half * half_k)
                b_tile = tl.load(b + half * half_k)
            else:
                j = start + half * half_k + k
                a_tile = tl.load(a + half * half_k, mask=(j < pitch)[None, :], other=0)
                b_mask = (j < model_dim)[:, None] & (column < hidden_dim)[None, :]
                b_tile = tl.load(b + half * half_k, mask=b_mask, other=0)
            total = tl.dot(a_tile, b_tile, total, out_dtype=tl.int32)
            if v1_t is not None:
                c_tile = tl.load(c + half * half_k) if EVEN else tl.load(c + half * half_k, mask=b_mask, other=0)
                factor = tl.dot(a_tile, c_tile, factor, out_dtype=tl.int32)
        a += BLOCK_K
        b += BLOCK_K
        if v1_t is not None:
            c += BLOCK_K
    inside = column < hidden_dim
    scale = tl.load(s1 + learner * hidden_dim + column, mask=inside, other=0.0)
    bias = tl.load(b1 + learner * hidden_dim + column, mask=inside, other=0.0)
    value = activate(total.to(tl.float32) * scale[None, :] + bias[None, :], activation, ACTIVATION_PRECISION)
    if v1_t is not None:
        c_scale = tl.load(t1 + learner * hidden_dim + column, mask=inside, other=0.0)
        c_bias = tl.load(c1 + learner * hidden_dim + column, mask=inside, other=0.0)
        value *= factor.to(tl.float32) * c_scale[None, :] + c_bias[None, :]
    rounded = scaled_int8(value, tl.load(h_mult + learner), tl.load(h_zero + learner).to(tl.int32))
    width = padded(hidden_dim)
    out = hidden + row.to(tl.int64)[:, None] * (num_learners * width) + (learner * width + column)[None, :]
    tl.store(out, rounded, mask=inside[None, :])
