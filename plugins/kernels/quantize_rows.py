"""x in int8, once per token instead of once per tile of GEMM 1."""

from __future__ import annotations

import triton
import triton.language as tl

from acm_export.plugins.kernels.rounding import scaled_int8
from acm_export.plugins.kernels.staircase import padded


@triton.jit(do_not_specialize=["first_row", "num_rows"])
def quantize_rows(
    x,  # (num_tokens, model_dim), T
    order,  # (num_tokens,), int32: the token at each sorted row
    reach,  # (num_learners + 1,), int32
    x_mult,  # (model_dim,), float32
    q,  # out: (rows of a chunk, padded(model_dim)), int8
    first_row,
    num_rows,
    model_dim,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Columns ``BLOCK_K * program_id(1) ..`` of BLOCK_M sorted rows; those beyond model_dim are 0.

    Rows of tokens that run no learner are not written.

    Grid: (``cdiv(num_rows, BLOCK_M)``, ``cdiv(model_dim, BLOCK_K)``).
    """
    rows = min(tl.load(reach + 1) - first_row, num_rows)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(0) * BLOCK_M >= rows:
        return
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    width = padded(model_dim)
    token = tl.load(order + first_row + row, mask=row < rows, other=0)
    inside = (row < rows)[:, None] & (column < model_dim)[None, :]
    values = tl.load(x + token.to(tl.int64)[:, None] * model_dim + column[None, :], mask=inside, other=0.0)
    multiplier = tl.load(x_mult + column, mask=column < model_dim, other=0.0)
    out = q + row.to(tl.int64)[:, None] * width + column[None, :]
    rounded = scaled_int8(values.to(tl.float32), multiplier[None, :], 0)
    tl.store(out, rounded, mask=(row < rows)[:, None] & (column < width)[None, :])
