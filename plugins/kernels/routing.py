"""Routing: counts from gate logits (docs/op.md), and the order of the tokens by count, descending.

A counting sort without atomics. ``count_tokens`` computes a histogram per block of tokens; ``place_tokens`` adds up the
histograms and writes every token to its row. For up to BLOCK tokens, ``route_one_block`` does both in one launch.
The number of blocks is limited (plan.py): with many tokens a block handles several pieces of BLOCK tokens, one after
the other. The sort is stable, so results are bit-identical on every run.

A *choice* c = 0..C-1 stands for the learner count ``min_learners + c``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def _choices(
    gate_logits,  # (num_tokens, num_choices), float32
    thresholds,  # (num_learners,), float32
    tokens,  # (BLOCK,), int32
    num_tokens,
    num_choices,
    min_learners,
    CHOICES: tl.constexpr,
):
    """The choice of every token of a block, int32 ``(BLOCK,)``; -1 beyond the last token."""
    c = tl.arange(0, CHOICES)
    inside = tokens < num_tokens
    row = gate_logits + tokens.to(tl.int64)[:, None] * num_choices
    low = float("-inf")
    z = tl.load(row + c[None, :], mask=inside[:, None] & (c < num_choices)[None, :], other=low)
    gated = (c > 0) & (c < num_choices)
    z_before = tl.load(row + c[None, :] - 1, mask=inside[:, None] & gated[None, :], other=low)
    upper = tl.associative_scan(z, 1, _maximum, reverse=True)  # max of z[c:]
    lower = tl.associative_scan(z_before, 1, _maximum)  # max of z[:c]
    tau = tl.load(thresholds + min_learners + c - 1, mask=gated, other=0.0)
    stops = gated[None, :] & ~(upper - lower > tau[None, :])  # a NaN margin never exceeds a threshold
    choice = tl.min(tl.where(stops, c[None, :] - 1, num_choices - 1), axis=1)
    any_nan = tl.max((z != z).to(tl.int32), axis=1)
    choice = tl.where(any_nan > 0, 0, choice)
    return tl.where(inside, choice, -1)


@triton.jit
def _token_range(block, num_tokens, num_pieces, BLOCK: tl.constexpr):
    """First token of a block and the one after its last: ``num_pieces`` pieces of BLOCK, fewer in the last block."""
    first = block * num_pieces * BLOCK
    return first, tl.minimum(first + num_pieces * BLOCK, num_tokens)


@triton.jit
def _add_histograms(histograms, block, num_choices, STEP: tl.constexpr, CHOICES: tl.constexpr):
    """Number of tokens for each choice, int32 ``(CHOICES,)``: in all blocks, and in the blocks before ``block``."""
    c = tl.arange(0, CHOICES)
    total = tl.zeros((CHOICES,), tl.int32)
    before = tl.zeros((CHOICES,), tl.int32)
    for start in range(0, tl.num_programs(0), STEP):
        b = start + tl.arange(0, STEP)
        inside = (b < tl.num_programs(0))[:, None] & (c < num_choices)[None, :]
        tokens = tl.load(histograms + b[:, None] * num_choices + c[None, :], mask=inside, other=0)
        total += tl.sum(tokens, axis=0)
        before += tl.sum(tl.where((b < block)[:, None], tokens, 0), axis=0)
    return total, before


@triton.jit
def _rows(chosen, starts):
    """Row of every token: start of its choice plus its rank among the tokens of that choice in the block.

    ``chosen``: (BLOCK, CHOICES), int32, one-hot; ``starts``: (CHOICES,), int32.
    """
    ranks = tl.cumsum(chosen, axis=0) - 1
    return tl.sum(tl.where(chosen > 0, starts[None, :] + ranks, 0), axis=1)


@triton.jit
def _store_reach(reach, at_least, num_tokens, num_choices, min_learners, CHOICES: tl.constexpr):
    """``reach[n]`` = tokens that run learner n or more, from ``at_least[c]`` = tokens whose choice is c or more."""
    c = tl.arange(0, CHOICES)
    tl.store(reach + min_learners + c, at_least, mask=c < num_choices)
    for n in range(min_learners):
        tl.store(reach + n, num_tokens)


@triton.jit
def _store_zeros(values, size, first, STEP: tl.constexpr):
    """Set ``values[:size]`` to 0 in pieces of STEP; the blocks take turns, starting with index ``first``."""
    for start in range(first * STEP, size, tl.num_programs(0) * STEP):
        i = start + tl.arange(0, STEP)
        tl.store(values + i, tl.zeros((STEP,), tl.int32), mask=i < size)


@triton.jit(do_not_specialize=["num_tokens", "num_choices", "min_learners", "num_arrivals"])
def route_one_block(
    gate_logits,  # (num_tokens, num_choices), float32
    thresholds,  # (num_learners,), float32
    counts,  # out: (num_tokens,), int32
    order,  # out: (num_tokens,), int32: the token at each row, by count, descending
    reach,  # out: (num_learners + 1,), int32
    arrivals,  # out: (num_arrivals,), int32: 0, for ``down_split``
    num_tokens,
    num_choices,
    min_learners,
    num_arrivals,
    BLOCK: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """Route up to BLOCK tokens. Grid: (1,)."""
    _store_zeros(arrivals, num_arrivals, 0, BLOCK)
    tokens = tl.arange(0, BLOCK)
    choice = _choices(gate_logits, thresholds, tokens, num_tokens, num_choices, min_learners, CHOICES)
    tl.store(counts + tokens, min_learners + choice, mask=tokens < num_tokens)
    chosen = (choice[:, None] == tl.arange(0, CHOICES)[None, :]).to(tl.int32)
    total = tl.sum(chosen, axis=0)
    at_least = tl.cumsum(total, axis=0, reverse=True)
    _store_reach(reach, at_least, num_tokens, num_choices, min_learners, CHOICES)
    tl.store(order + _rows(chosen, at_least - total), tokens, mask=tokens < num_tokens)


@triton.jit(do_not_specialize=["num_tokens", "num_choices", "min_learners", "num_pieces"])
def count_tokens(
    gate_logits,  # (num_tokens, num_choices), float32
    thresholds,  # (num_learners,), float32
    counts,  # out: (num_tokens,), int32
    histograms,  # out: (num_blocks, num_choices), int32
    num_tokens,
    num_choices,
    min_learners,
    num_pieces,
    BLOCK: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """Counts of one block of tokens, and how many tokens made each choice. Grid: (num_blocks,)."""
    block = tl.program_id(0)
    c = tl.arange(0, CHOICES)
    total = tl.zeros((CHOICES,), tl.int32)
    first, end = _token_range(block, num_tokens, num_pieces, BLOCK)
    for start in range(first, end, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        choice = _choices(gate_logits, thresholds, tokens, num_tokens, num_choices, min_learners, CHOICES)
        tl.store(counts + tokens, min_learners + choice, mask=tokens < num_tokens)
        total += tl.sum((choice[:, None] == c[None, :]).to(tl.int32), axis=0)
    tl.store(histograms + block * num_choices + c, total, mask=c < num_choices)


@triton.jit(do_not_specialize=["num_tokens", "num_choices", "min_learners", "num_pieces", "num_arrivals"])
def place_tokens(
    counts,  # (num_tokens,), int32
    histograms,  # (num_blocks, num_choices), int32
    order,  # out: (num_tokens,), int32
    reach,  # out: (num_learners + 1,), int32
    arrivals,  # out: (num_arrivals,), int32: 0, for ``down_split``
    num_tokens,
    num_choices,
    min_learners,
    num_pieces,
    num_arrivals,
    BLOCK: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """Write the tokens of one block to their rows. Grid: (num_blocks,)."""
    block = tl.program_id(0)
    _store_zeros(arrivals, num_arrivals, block, BLOCK)
    first, end = _token_range(block, num_tokens, num_pieces, BLOCK)
    tokens = first + tl.arange(0, BLOCK)
    count = tl.load(counts + tokens, mask=tokens < num_tokens, other=-1)  # each piece is prefetched
    total, before = _add_histograms(histograms, block, num_choices, BLOCK, CHOICES)
    at_least = tl.cumsum(total, axis=0, reverse=True)
    if block == 0:
        _store_reach(reach, at_least, num_tokens, num_choices, min_learners, CHOICES)
    starts = at_least - total + before
    for start in range(first, end, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        choice = tl.where(tokens < num_tokens, count - min_learners, -1)
        count = tl.load(counts + tokens + BLOCK, mask=tokens + BLOCK < end, other=-1)
        chosen = (choice[:, None] == tl.arange(0, CHOICES)[None, :]).to(tl.int32)
        tl.store(order + _rows(chosen, starts), tokens, mask=tokens < num_tokens)
        starts += tl.sum(chosen, axis=0)
