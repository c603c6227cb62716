"""What a launch needs besides pointers: arithmetic over shapes, the same here and in the C++ plugin.

Nothing here depends on how tokens are routed, so a plan is made once per shape, and a CUDA graph can keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN_LIMIT = 192 << 20
"""Most bytes of hidden values, and of x in int8, in one chunk of sorted rows. With partial sums and routing the
workspace stays within 256 MiB, except that a chunk has at least ROWS rows."""

PARTIAL_LIMIT = 32 << 20
"""Most bytes of partial sums; if they need more, K is not split."""

ROWS = 128
"""The rows of every tile divide this number, so chunks and the hidden workspace are multiples of it."""

MAX_SPLIT = 4
"""Most slices of K per learner in the tile table; sizes the partial sums."""

MAX_TOKENS = 1 << 29
"""Tokens and rows have 32-bit indices, including those of the last tile or routing block past the last token."""

_LEAST_ROWS, _LEAST_COLUMNS = 16, 32
"""Smallest tile of GEMM 2 where K is split; sizes the arrivals."""

ALIGNMENT = 256

ROUTING_BLOCKS = ((8, 256), (32, 128), (128, 32))
"""(choices, tokens) of a routing block: tokens that it handles at a time; 4,096 values fit into registers."""

QUANTIZE_BLOCK = (8, 256)
"""Rows and columns of a block of ``quantize_rows``: its 128 threads store 16 bytes each. Reasoned, not measured."""

MAX_ROUTING_BLOCKS = 512
"""With more tokens, each routing block handles several pieces. Each block reads the histograms of all blocks: at most
10 KiB with 5 choices, 130 KiB with 65. Four blocks per multiprocessor keep a large GPU busy. Reasoned, not measured.
"""


@dataclass(frozen=True)
class Problem:
    """Shapes of one call.

    Args:
        tokens: Number of tokens, at least 1.
        model_dim: D.
        hidden_dim: h.
        num_learners: N.
        min_learners: Learners that always run.
        element_size: Bytes of a hidden value: those of T, or 1 for the int8 operators.
        glu: Whether learners are GLUs, whose GEMM 1 computes two products.
    """

    tokens: int
    model_dim: int
    hidden_dim: int
    num_learners: int
    min_learners: int
    element_size: int
    glu: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MAX_TOKENS:
            raise KernelError(f"{self.tokens} tokens; the kernels support 1 to {MAX_TOKENS}")

    @property
    def num_choices(self) -> int:
        """C, the number of choices."""
        return self.num_learners - self.min_learners + 1

    @property
    def hidden_row_bytes(self) -> int:
        """Bytes of one token's hidden values; the width of each learner is padded to a multiple of 16."""
        return self.num_learners * _round_up(self.hidden_dim, 16) * self.element_size

    @property
    def quantized_row_bytes(self) -> int:
        """Bytes of one token of x in int8, D padded to a multiple of 16; 0 for float operators."""
        return _round_up(self.model_dim, 16) if self.element_size == 1 else 0

    @property
    def chunk_rows(self) -> int:
        """Sorted rows per chunk, a multiple of ROWS."""
        fitting = HIDDEN_LIMIT // (self.hidden_row_bytes + self.quantized_row_bytes) // ROWS * ROWS
        return min(max(fitting, ROWS), _round_up(self.tokens, ROWS))

    @property
    def partial_bytes(self) -> int:
        """Bytes of the partial sums with the most slices, or the limit if they need more."""
        return min(self.num_learners * MAX_SPLIT * self.tokens * self.model_dim * 4, PARTIAL_LIMIT)

    @property
    def arrivals(self) -> int:
        """Most tiles of GEMM 2 where K is split, at least one."""
        tokens = min(self.tokens, PARTIAL_LIMIT // (4 * self.model_dim))
        return max(cdiv(tokens, _LEAST_ROWS) * cdiv(self.model_dim, _LEAST_COLUMNS), 1)

    def splits(self, split: int) -> bool:
        """Whether K is split: ``split`` is not 0, all tokens are in one chunk, and the partial sums fit."""
        size = self.num_learners * split * self.tokens * self.model_dim * 4
        return split > 0 and size <= self.partial_bytes and self.tokens <= self.chunk_rows

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows of each chunk."""
        for first in range(0, self.tokens, self.chunk_rows):
            yield first, min(self.chunk_rows, self.tokens - first)


@dataclass(frozen=True)
class Routing:
    """How tokens are cut for routing.

    Args:
        block: Tokens that a block handles at a time; up to this many are routed in one launch.
        choices: C rounded up to a size for which kernels exist.
        num_pieces: Pieces of ``block`` consecutive tokens that each block handles.
        num_blocks: Number of blocks, at most MAX_ROUTING_BLOCKS.
    """

    block: int
    choices: int
    num_pieces: int
    num_blocks: int


def routing(problem: Problem) -> Routing:
    """Routing blocks for a problem."""
    choices, block = next(pair for pair in ROUTING_BLOCKS if pair[0] >= problem.num_choices)
    num_pieces = cdiv(problem.tokens, block * MAX_ROUTING_BLOCKS)
    return Routing(block, choices, num_pieces, cdiv(problem.tokens, block * num_pieces))


@dataclass(frozen=True)
class Workspace:
    """Byte offsets into the workspace, each a multiple of ALIGNMENT, and its size.

    Never smaller for more tokens, so the size for the most tokens serves every smaller call.

    Args:
        reach: int32 ``[N + 1]``.
        order: int32 ``[tokens]``.
        histograms: int32 ``[blocks, C]``, with room for the blocks of every smaller call.
        arrivals: int32 ``[tiles]``: finished slices of each tile of GEMM 2, where K is split. The kernels in CUDA use
            the first element as the counter of tiles taken.
        q: int8 ``[chunk rows, padded D]``, x of the int8 operator; empty for others.
        hidden: T or int8 ``[chunk rows, N * padded h]``.
        partial: float32 or int32 ``[N * slices, tokens, D]``.
        size: Total bytes.
    """

    reach: int
    order: int
    histograms: int
    arrivals: int
    q: int
    hidden: int
    partial: int
    size: int


def workspace(problem: Problem) -> Workspace:
    """Layout of the workspace for a problem."""
    sizes = (
        4 * (problem.num_learners + 1),
        4 * problem.tokens,
        4 * problem.num_choices * min(cdiv(problem.tokens, routing(problem).block), MAX_ROUTING_BLOCKS),
        4 * problem.arrivals,
        min(problem.tokens, problem.chunk_rows) * problem.quantized_row_bytes,
        problem.chunk_rows * problem.hidden_row_bytes,
        problem.partial_bytes,
    )
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + _round_up(size, ALIGNMENT))
    return Workspace(*offsets)


def aligned(problem: Problem, *pointers: int) -> bool:
    """Whether kernels that load 16 bytes at a time may be used."""
    return all(value % 16 == 0 for value in (problem.model_dim, problem.hidden_dim, *pointers))


def cdiv(a: int, b: int) -> int:
    """Quotient, rounded up."""
    return -(-a // b)


def _round_up(value: int, multiple: int) -> int:
    return cdiv(value, multiple) * multiple
