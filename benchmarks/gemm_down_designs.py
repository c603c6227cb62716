"""Designs of GEMM 2, of the permutation of rows and of the gate in Triton, for gemm_candidates.py.

Not part of the package; written for whole tiles only, like gemm_up_designs.py.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: N803  constants of a Triton kernel are arguments in capitals

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.staircase import grouped, learners_of_row


@triton.jit
def scatter(total, order, counts, b2, y, row, column, model_dim, num_tokens):
    """Add b2[count] and store each row at its token."""
    inside = row < num_tokens
    token = tl.load(order + row, mask=inside, other=0)
    count = tl.load(counts + token, mask=inside, other=0)
    bias = tl.load(b2 + count.to(tl.int64)[:, None] * model_dim + column[None, :], mask=inside[:, None], other=0.0)
    out = y + token.to(tl.int64)[:, None] * model_dim + column[None, :]
    tl.store(out, (total + bias.to(tl.float32)).to(y.dtype.element_ty), mask=inside[:, None])


@triton.jit
def down_pointers(
    filled,
    order,
    counts,
    reach,
    w2,
    b2,
    y,
    num_tokens,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Everything through pointers; one program a tile."""
    r, c = grouped(tl.program_id(0), tl.cdiv(num_tokens, BLOCK_M), model_dim // BLOCK_N, GROUP)
    row, column, k = r * BLOCK_M + tl.arange(0, BLOCK_M), c * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    most = learners_of_row(reach, r * BLOCK_M, num_learners)
    a = filled + row.to(tl.int64)[:, None] * (num_learners * hidden_dim) + k[None, :]
    b = w2 + k.to(tl.int64)[:, None] * model_dim + column[None, :]
    b_step = tl.cast(model_dim, tl.int64) * BLOCK_K
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(0, most * hidden_dim, BLOCK_K):
        total = tl.dot(tl.load(a), tl.load(b), total)
        a += BLOCK_K
        b += b_step
    scatter(total, order, counts, b2, y, row, column, model_dim, num_tokens)


@triton.jit
def down_tma(
    filled_tma,
    order,
    counts,
    reach,
    w2_tma,
    b2,
    y,
    num_tokens,
    model_dim,
    hidden_dim,
    num_learners,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Both operands by TMA; one program a tile."""
    r, c = grouped(tl.program_id(0), tl.cdiv(num_tokens, BLOCK_M), model_dim // BLOCK_N, GROUP)
    most = learners_of_row(reach, r * BLOCK_M, num_learners)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, most * hidden_dim, BLOCK_K):
        total = tl.dot(filled_tma.load([r * BLOCK_M, start]), w2_tma.load([start, c * BLOCK_N]), total)
    row, column = r * BLOCK_M + tl.arange(0, BLOCK_M), c * BLOCK_N + tl.arange(0, BLOCK_N)
    scatter(total, order, counts, b2, y, row, column, model_dim, num_tokens)


@triton.jit
def down_persistent(
    filled_tma,
    order,
    counts,
    w2_tma,
    b2,
    y,
    num_tokens,
    model_dim,
    hidden_dim,
    num_programs,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):
    """Both operands by TMA; each program takes every num_programs-th tile."""
    num_rows, num_columns = tl.cdiv(num_tokens, BLOCK_M), model_dim // BLOCK_N
    for tile in tl.range(tl.program_id(0), num_rows * num_columns, num_programs, warp_specialize=SPECIALIZED):
        r, c = grouped(tile, num_rows, num_columns, GROUP)
        most = tl.load(counts + tl.load(order + r * BLOCK_M))
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, most * hidden_dim, BLOCK_K):
            total = tl.dot(filled_tma.load([r * BLOCK_M, start]), w2_tma.load([start, c * BLOCK_N]), total)
        row, column = r * BLOCK_M + tl.arange(0, BLOCK_M), c * BLOCK_N + tl.arange(0, BLOCK_N)
        scatter(total, order, counts, b2, y, row, column, model_dim, num_tokens)


@triton.jit
def permute_rows(x, order, permuted, num_tokens, model_dim, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Copy the rows of x into the order of their counts."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = tl.load(order + row, mask=row < num_tokens, other=0)
    for start in range(0, model_dim, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        inside = (row < num_tokens)[:, None] & (column < model_dim)[None, :]
        value = tl.load(x + token.to(tl.int64)[:, None] * model_dim + column[None, :], mask=inside)
        tl.store(permuted + row.to(tl.int64)[:, None] * model_dim + column[None, :], value, mask=inside)


@triton.jit
def gate(
    x,
    weight,
    bias,
    logits,
    num_tokens,
    model_dim,
    num_choices,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DESIGN: tl.constexpr,
):
    """Gate logits in float32. DESIGN: products summed at the end (0), a sum for each choice (1), or tl.dot (2)."""
    width: tl.constexpr = 16 if DESIGN == 2 else 8
    t, c = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, width)
    products = tl.zeros((BLOCK_M, 8, BLOCK_K), tl.float32) if DESIGN == 0 else 0.0
    total = tl.zeros((BLOCK_M, width), tl.float32)
    for start in range(0, model_dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        given = (t < num_tokens)[:, None] & (k < model_dim)[None, :]
        value = tl.load(x + t.to(tl.int64)[:, None] * model_dim + k[None, :], mask=given, other=0.0).to(tl.float32)
        if DESIGN == 1:
            for j in range(num_choices):
                one = tl.load(weight + j * model_dim + k, mask=k < model_dim, other=0.0)
                total = tl.where((c == j)[None, :], total + tl.sum(value * one[None, :], 1)[:, None], total)
        else:
            inside = (c < num_choices)[:, None] & (k < model_dim)[None, :]
            all_choices = tl.load(weight + c[:, None] * model_dim + k[None, :], mask=inside, other=0.0)
            if DESIGN == 0:
                products += value[:, None, :] * all_choices[None, :, :]
            else:
                total = tl.dot(value, tl.trans(all_choices), total, input_precision="ieee")
    if DESIGN == 0:
        total = tl.sum(products, axis=2)
    total += tl.load(bias + c, mask=c < num_choices, other=0.0)[None, :]
    inside = (t < num_tokens)[:, None] & (c < num_choices)[None, :]
    tl.store(logits + t.to(tl.int64)[:, None] * num_choices + c[None, :], total, mask=inside)
