"""A gate of one linear layer: logits = x W^T + b, with x in half precision and everything else in float32.

PyTorch would write x to memory in float32 first and read it back. This kernel reads x once: every thread converts its
own values and keeps a running sum for each token and choice, and the threads of a token add up at the end.

Measured on an H100 (25,216 tokens, D = 768, C = 5, bfloat16): cast and linear map in PyTorch take 114 µs, this kernel
21 (docs/kernels.md, "The gate").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

MOST_CHOICES = 9
"""Most choices per block: with more, the sums no longer fit in registers. More choices take more blocks."""

_WARPS = 4

_VECTORS = {"BLOCK": 32, "PIECES": 8, "VECTOR": 8}
"""For x whose rows start at multiples of 16 bytes: a thread loads 8 values at once. A step is 64 values of a row, fewer
than the threads of a block: Triton then loads weights directly into the threads that need them."""

_SINGLE_VALUES = {"BLOCK": 16, "PIECES": 32, "VECTOR": 1}
"""For all other x."""


@triton.jit(do_not_specialize=["num_tokens", "num_choices"])
def gate(
    x,  # (num_tokens, model_dim), float16 or bfloat16
    weight,  # (num_choices, model_dim), float32
    bias,  # (num_choices,), float32
    logits,  # out: (num_tokens, num_choices), float32
    num_tokens,
    model_dim,
    num_choices,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
    VECTOR: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """CHOICES logits of BLOCK tokens. Grid: ``cdiv(num_tokens, BLOCK) * cdiv(num_choices, CHOICES)``.

    Blocks of the same tokens are neighbours, so that only the first of them reads x from memory.
    """
    groups = tl.cdiv(num_choices, CHOICES)
    first = tl.program_id(0) % groups * CHOICES
    token = tl.program_id(0) // groups * BLOCK + tl.arange(0, BLOCK)
    inside = token < num_tokens
    rows = x + token.to(tl.int64)[:, None] * model_dim
    sums = (tl.zeros((BLOCK, PIECES), tl.float32),) * CHOICES
    for start in range(0, model_dim, PIECES * VECTOR):
        column = start + tl.arange(0, PIECES * VECTOR)
        read = column < model_dim
        values = tl.load(rows + column[None, :], mask=inside[:, None] & read[None, :], other=0.0).to(tl.float32)
        longer = sums[:0]
        for j in tl.static_range(CHOICES):
            choice = min(first + j, num_choices - 1)
            factors = tl.load(weight + choice * model_dim + column, mask=read, other=0.0)
            products = tl.reshape(values * factors[None, :], (BLOCK, PIECES, VECTOR))
            longer += (sums[j] + tl.sum(products, 2),)  # inside a thread
        sums = longer
    out = logits + token.to(tl.int64) * num_choices
    for j in tl.static_range(CHOICES):
        if first + j < num_choices:
            total = tl.sum(sums[j], 1)  # across the threads of a token
            tl.store(out + first + j, total + tl.load(bias + first + j), mask=inside)


def constants(num_choices: int, *, vectors: bool) -> dict[str, int]:
    """Compile-time arguments.

    Args:
        num_choices: C.
        vectors: Whether D is a multiple of 16 and x starts at a multiple of 16 bytes.
    """
    groups = triton.cdiv(num_choices, MOST_CHOICES)
    return {**(_VECTORS if vectors else _SINGLE_VALUES), "CHOICES": triton.cdiv(num_choices, groups)}


def options(num_choices: int) -> dict[str, int | bool]:
    """Compile options of a kernel for this many choices.

    Without a limit on registers, ptxas aims at fewer of them and spills with some numbers of choices. With at most 80,
    six blocks run on a multiprocessor at once: 25,216 tokens are 788 blocks, one wave on an H100's 132
    multiprocessors. With more than five choices, 80 registers would spill on some architectures.
    """
    choices = constants(num_choices, vectors=True)["CHOICES"]
    return {"num_warps": _WARPS, "maxnreg": 80 if choices <= 5 else 144, "enable_fp_fusion": True}


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, logits: torch.Tensor) -> None:
    """Compute the logits of one or more tokens.

    Args:
        x: ``[tokens, D]``, float16 or bfloat16, contiguous.
        weight: ``[C, D]``, float32, contiguous.
        bias: ``[C]``, float32, contiguous.
        logits: Output, ``[tokens, C]``, float32, contiguous.
    """
    (tokens, model_dim), choices = x.shape, len(bias)
    blocks = constants(choices, vectors=model_dim % 16 == 0 and x.data_ptr() % 16 == 0)
    grid = triton.cdiv(tokens, blocks["BLOCK"]) * triton.cdiv(choices, blocks["CHOICES"])
    gate[(grid,)](x, weight, bias, logits, tokens, model_dim, choices, **blocks, **options(choices))
