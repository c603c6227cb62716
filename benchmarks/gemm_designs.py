"""Designs of the two GEMMs of the staircase and of the gate in Triton, for gemm_candidates.py; not part of the package.

Written for whole tiles only: D and h are multiples of every tile, hidden values have spare rows up to a multiple of
256, and rows of a tile that do not run the learner are not set to 0. In signatures, ``*_tma`` are tensor descriptors;
``x_sorted_tma`` describes x with its rows sorted by count beforehand.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: N803  constants of a Triton kernel are arguments in capitals
# fmt: skip: signatures keep tensors, sizes and constants together, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.staircase import active_tile, grouped, learners_of_row


@triton.jit
def biased(total, bias, GELU: tl.constexpr):
    """Sums plus bias, through GELU by the tanh instruction: a fit for |v| < 10, good enough to be timed."""
    v = total + bias.to(tl.float32)[None, :]
    if GELU:
        square = v * v
        odd = v * ((-3.0e-4 * square + 3.6e-2) * square + 0.79788)
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [odd], dtype=tl.float32, is_pure=True, pack=1
        )
        v = 0.5 * v * tanh + 0.5 * v
    return v


@triton.jit
def up_tile(reach, index, num_tokens, hidden_dim, num_learners,
            BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """Learner, first row and first column (over all learners) of a tile of hidden values."""
    num_columns = hidden_dim // BLOCK_N
    learner, tile, rows = active_tile(reach, index, 0, num_tokens, num_columns, num_learners, BLOCK_M)
    row_tile, column_tile = grouped(tile, tl.cdiv(rows, BLOCK_M), num_columns, GROUP)
    return learner, row_tile * BLOCK_M, learner * hidden_dim + column_tile * BLOCK_N


@triton.jit
def store(hidden, value, row, column, width):
    """Store hidden values through pointers."""
    tl.store(hidden + row.to(tl.int64)[:, None] * width + column[None, :], value.to(hidden.dtype.element_ty))


@triton.jit
def up_gather(x, order, reach, w1, b1, hidden, num_tokens, model_dim, hidden_dim, num_learners, BLOCK_M: tl.constexpr,
              BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, GELU: tl.constexpr):  # fmt: skip
    """Everything through pointers; one program a tile."""
    learner, r0, c0 = up_tile(reach, tl.program_id(0), num_tokens, hidden_dim, num_learners, BLOCK_M, BLOCK_N, GROUP)
    if learner >= num_learners:
        return
    row, column, k = r0 + tl.arange(0, BLOCK_M), c0 + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    token = tl.load(order + row, mask=row < num_tokens, other=0)
    width = num_learners * hidden_dim
    a = x + token.to(tl.int64)[:, None] * model_dim + k[None, :]
    b = w1 + k.to(tl.int64)[:, None] * width + column[None, :]
    b_step = tl.cast(width, tl.int64) * BLOCK_K
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(0, model_dim, BLOCK_K):
        total = tl.dot(tl.load(a), tl.load(b), total)
        a += BLOCK_K
        b += b_step
    store(hidden, biased(total, tl.load(b1 + column), GELU), row, column, width)


@triton.jit
def up_gather_tma(x, order, reach, w1_tma, b1, hidden, num_tokens, model_dim, hidden_dim, num_learners,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
                  GELU: tl.constexpr):  # fmt: skip
    """Rows of x through pointers, W1 by TMA; one program a tile."""
    learner, r0, c0 = up_tile(reach, tl.program_id(0), num_tokens, hidden_dim, num_learners, BLOCK_M, BLOCK_N, GROUP)
    if learner >= num_learners:
        return
    row, column = r0 + tl.arange(0, BLOCK_M), c0 + tl.arange(0, BLOCK_N)
    token = tl.load(order + row, mask=row < num_tokens, other=0)
    a = x + token.to(tl.int64)[:, None] * model_dim + tl.arange(0, BLOCK_K)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, model_dim, BLOCK_K):
        total = tl.dot(tl.load(a), w1_tma.load([start, c0]), total)
        a += BLOCK_K
    store(hidden, biased(total, tl.load(b1 + column), GELU), row, column, num_learners * hidden_dim)


@triton.jit
def up_sorted(x_sorted_tma, reach, w1_tma, b1, hidden_tma, num_tokens, model_dim, hidden_dim, num_learners,
              BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
              GELU: tl.constexpr):  # fmt: skip
    """Sorted rows, everything by TMA; one program a tile."""
    learner, r0, c0 = up_tile(reach, tl.program_id(0), num_tokens, hidden_dim, num_learners, BLOCK_M, BLOCK_N, GROUP)
    if learner >= num_learners:
        return
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, model_dim, BLOCK_K):
        total = tl.dot(x_sorted_tma.load([r0, start]), w1_tma.load([start, c0]), total)
    value = biased(total, tl.load(b1 + c0 + tl.arange(0, BLOCK_N)), GELU)
    hidden_tma.store([r0, c0], value.to(hidden_tma.dtype))


@triton.jit
def up_persistent(x_sorted_tma, reach, w1_tma, b1, hidden_tma, num_tokens, model_dim, hidden_dim, num_learners,
                  num_programs, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                  GROUP: tl.constexpr, GELU: tl.constexpr, FLATTEN: tl.constexpr, HALVES: tl.constexpr):  # fmt: skip
    """Sorted rows, everything by TMA; each program takes every num_programs-th tile. HALVES: two-part epilogue."""
    n = tl.arange(0, 64)
    rows = tl.load(reach + 1 + n, mask=n < num_learners, other=0)
    num_tiles = tl.sum(tl.cdiv(rows, BLOCK_M) * (hidden_dim // BLOCK_N), axis=0)
    steps = tl.cdiv(model_dim, BLOCK_K)
    for tile in tl.range(tl.program_id(0), num_tiles, num_programs, flatten=FLATTEN):
        _, r0, c0 = up_tile(reach, tile, num_tokens, hidden_dim, num_learners, BLOCK_M, BLOCK_N, GROUP)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(steps):
            total = tl.dot(x_sorted_tma.load([r0, step * BLOCK_K]), w1_tma.load([step * BLOCK_K, c0]), total)
        if HALVES:
            half: tl.constexpr = BLOCK_N // 2
            left, right = tl.split(tl.permute(tl.reshape(total, (BLOCK_M, 2, half)), (0, 2, 1)))
            value = biased(left, tl.load(b1 + c0 + tl.arange(0, half)), GELU)
            hidden_tma.store([r0, c0], value.to(hidden_tma.dtype))
            value = biased(right, tl.load(b1 + c0 + half + tl.arange(0, half)), GELU)
            hidden_tma.store([r0, c0 + half], value.to(hidden_tma.dtype))
        else:
            value = biased(total, tl.load(b1 + c0 + tl.arange(0, BLOCK_N)), GELU)
            hidden_tma.store([r0, c0], value.to(hidden_tma.dtype))


@triton.jit
def up_listed(x_sorted_tma, tiles, w1_tma, b1, hidden, model_dim, hidden_dim, num_learners, num_programs,
              BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GELU: tl.constexpr,
              SPECIALIZED: tl.constexpr):  # fmt: skip
    """Sorted rows by TMA, persistent, tiles from a list (number of tiles, then row << 16 | column of each)."""
    steps = tl.cdiv(model_dim, BLOCK_K)
    for tile in tl.range(tl.program_id(0), tl.load(tiles), num_programs, warp_specialize=SPECIALIZED):
        packed = tl.load(tiles + 1 + tile)
        r0, c0 = (packed >> 16) * BLOCK_M, (packed & 0xFFFF) * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(steps):
            total = tl.dot(x_sorted_tma.load([r0, step * BLOCK_K]), w1_tma.load([step * BLOCK_K, c0]), total)
        row, column = r0 + tl.arange(0, BLOCK_M), c0 + tl.arange(0, BLOCK_N)
        store(hidden, biased(total, tl.load(b1 + column), GELU), row, column, num_learners * hidden_dim)


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
def down_pointers(filled, order, counts, reach, w2, b2, y, num_tokens, model_dim, hidden_dim, num_learners,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                  GROUP: tl.constexpr):  # fmt: skip
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
def down_tma(filled_tma, order, counts, reach, w2_tma, b2, y, num_tokens, model_dim, hidden_dim, num_learners,
             BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """Both operands by TMA; one program a tile."""
    r, c = grouped(tl.program_id(0), tl.cdiv(num_tokens, BLOCK_M), model_dim // BLOCK_N, GROUP)
    most = learners_of_row(reach, r * BLOCK_M, num_learners)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, most * hidden_dim, BLOCK_K):
        total = tl.dot(filled_tma.load([r * BLOCK_M, start]), w2_tma.load([start, c * BLOCK_N]), total)
    row, column = r * BLOCK_M + tl.arange(0, BLOCK_M), c * BLOCK_N + tl.arange(0, BLOCK_N)
    scatter(total, order, counts, b2, y, row, column, model_dim, num_tokens)


@triton.jit
def down_persistent(filled_tma, order, counts, w2_tma, b2, y, num_tokens, model_dim, hidden_dim, num_programs,
                    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
                    SPECIALIZED: tl.constexpr):  # fmt: skip
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
def gate(x, weight, bias, logits, num_tokens, model_dim, num_choices, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
         DESIGN: tl.constexpr):  # fmt: skip
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
