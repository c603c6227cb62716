"""Tiles to try on a GPU for each token count, and the search through them. Nothing here needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import Entry, Tile

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENS = (25216, 197, 48, 8)
"""Token counts to tune at, most valuable first: 128 images of a ViT, one image, and two short pieces of speech. The
result is for the entry that the current table selects at that count."""

NOISE = 0.02
"""A candidate replaces the current entry only if it is faster by more than this."""

TABLE_ROWS = plan.ROWS
"""The workspace is rounded up to this many rows. Tiles with more rows are timed with a larger workspace, so that the
gain is known, but not chosen."""


class Sizes(NamedTuple):
    """Fields of a tile that a candidate sets; other fields stay as in the current entry."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    registers: int = 0

    def of(self, present: Tile) -> Tile:
        """The tile."""
        return replace(present, **self._asdict())

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block that multiplies half-precision values."""
        return 2 * self.stages * self.block_k * (self.block_m + self.block_n)


_MANY = tuple(
    Sizes(*sizes)
    for sizes in (
        # 128 sums a thread: reads the least per multiply-add; one block on a multiprocessor.
        (128, 256, 64, 8, 3),
        (256, 128, 64, 8, 3),
        (128, 256, 64, 8, 4),
        (256, 128, 64, 8, 4),
        # Two blocks share a multiprocessor, so that one multiplies while the other loads or stores: 96 KiB each, and
        # with 8 warps at most 128 registers. 4 warps hold 128 sums a thread within their 255 registers.
        (128, 128, 64, 4, 3),
        (128, 128, 64, 8, 3, 128),
        (128, 128, 32, 8, 5, 128),
        (128, 128, 32, 4, 5),
        (64, 256, 32, 4, 5),
        (128, 128, 32, 8, 4, 128),
        # One block with 64 sums a thread and a deeper pipeline.
        (128, 128, 64, 8, 4),
        (128, 128, 64, 8, 5),
        (128, 128, 64, 8, 3),
        (128, 128, 64, 4, 4),
        (128, 128, 64, 4, 5),
        # One warp group over 64 rows: fewer wasted rows at the edges of the staircase.
        (64, 256, 64, 4, 3),
        (64, 256, 64, 4, 4),
        (64, 128, 64, 4, 4),
        (128, 64, 64, 4, 4),
        # Half as many barriers.
        (128, 128, 128, 8, 3),
        (128, 256, 128, 8, 2),
    )
)

_IMAGE = tuple(
    Sizes(*sizes)
    for sizes in (
        # The matrix units of sm_90 take 64 rows. About 96 blocks of 64 x 64; deeper or wider steps hide more latency.
        (64, 64, 128, 4, 3),
        (64, 64, 64, 4, 5),
        (64, 32, 128, 4, 4),
        (64, 64, 64, 8, 4),
        (64, 64, 64, 4, 3),
        # Fewer, larger blocks read inputs less often.
        (64, 128, 64, 4, 4),
        (64, 128, 64, 8, 4),
        (128, 64, 64, 4, 4),
        (128, 64, 64, 8, 4),
        (64, 128, 128, 4, 3),
        (128, 128, 64, 8, 3),
        (128, 32, 128, 4, 3),
        # More, smaller blocks fill the chip; 32 and 16 rows use the older matrix instruction.
        (32, 64, 128, 4, 4),
        (32, 64, 64, 4, 5),
        (32, 32, 128, 4, 4),
        (64, 32, 64, 4, 5),
        (32, 128, 64, 4, 4),
        (16, 64, 128, 4, 4),
        (16, 128, 64, 4, 4),
    )
)

_FEW = tuple(
    Sizes(*sizes)
    for sizes in (
        # The time is spent reading weights once: 16 rows waste least; bytes in flight over all blocks matter.
        (16, 32, 128, 4, 5),
        (16, 32, 256, 4, 3),
        (16, 64, 128, 4, 4),
        (16, 16, 256, 4, 3),
        (16, 32, 128, 4, 4),
        (16, 32, 64, 4, 6),
        (16, 64, 64, 4, 6),
        (16, 32, 256, 4, 4),
        (16, 16, 128, 4, 5),
        (16, 64, 256, 4, 3),
        (16, 32, 128, 2, 5),
        (16, 32, 256, 8, 3),
        (16, 64, 128, 8, 5),
        (16, 128, 64, 4, 5),
        (16, 16, 256, 2, 4),
        (16, 32, 64, 2, 6),
        (16, 64, 256, 8, 3),
        (16, 128, 128, 8, 3),
    )
)

_SOME = tuple(
    Sizes(*sizes)
    for sizes in (
        # 48 tokens: as above, with 16, 32 or 64 rows: fewer rows waste less, more rows read the weights less often.
        (32, 32, 128, 4, 4),
        (32, 32, 128, 4, 5),
        (64, 32, 128, 4, 4),
        (32, 32, 256, 4, 3),
        (32, 64, 128, 4, 4),
        (16, 32, 128, 4, 5),
        (64, 64, 128, 4, 3),
        (64, 32, 64, 4, 6),
        (32, 64, 64, 4, 6),
        (32, 32, 64, 4, 6),
        (16, 64, 128, 4, 4),
        (64, 16, 128, 4, 5),
        (32, 16, 256, 4, 3),
        (64, 32, 256, 4, 2),
        (32, 64, 128, 8, 4),
        (64, 32, 128, 8, 4),
        (16, 32, 256, 4, 3),
        (64, 64, 64, 4, 5),
    )
)

UPS: Mapping[int, tuple[Sizes, ...]] = {25216: _MANY, 197: _IMAGE, 48: _SOME, 8: _FEW}
"""Tiles of GEMM 1 for each token count, most promising first."""

DOWNS: Mapping[int, tuple[tuple[Sizes, int], ...]] = {
    25216: tuple((sizes, 0) for sizes in _MANY),
    # A learner's K in one block (1) or in two (2), or the K of all learners in one block and no sum afterwards (0).
    197: (*((sizes, 1) for sizes in _IMAGE[:13]), (Sizes(64, 64, 64, 4, 4), 2), *((s, 2) for s in _IMAGE[5:7]),
          *((_IMAGE[i], 0) for i in (2, 12, 14, 17))),
    # Narrow tiles reach enough blocks with one slice; wide ones need two or four.
    48: (*((sizes, 2) for sizes in _SOME[:11]), *((s, 1) for s in _SOME[:4]), *((_SOME[i], 4) for i in (0, 2, 4, 6))),
    8: (*((sizes, 2) for sizes in _FEW[:11]), *((s, 1) for s in _FEW[:4]), *((_FEW[i], 4) for i in (0, 2, 9, 13))),
}  # fmt: skip  # a table
"""Tiles of GEMM 2 and slices of K in each learner."""


Measure = Callable[[str, Entry], "float | None"]
"""Time ÷ time of the current entry, by role and entry; None if it was not timed."""


def search(present: Entry, tokens: int, measure: Measure) -> Entry:
    """The fastest entry for a token count; the current one if no other is faster by more than the noise.

    Args:
        present: Entry of the current table.
        tokens: A key of UPS and DOWNS.
        measure: Function called for every candidate, most promising first.
    """
    works = measure("present", present) is not None
    seen = {present: 1.0} if works else {}

    def try_entry(role: str, entry: Entry) -> None:
        if entry not in seen and (ratio := measure(role, entry)) is not None:
            seen[entry] = ratio

    ups = [sizes.of(present.up) for sizes in UPS[tokens]]
    for sizes, split in DOWNS[tokens]:
        down = sizes.of(present.down)
        if (up := next((up for up in (present.up, *ups) if up.block_m % down.block_m == 0), None)) is not None:
            try_entry("down", replace(present, up=up, down=down, split=split, glu=_glu_tile(present, down)))
    by_down = dict(seen)
    for up in ups:
        if fitting := [entry for entry in by_down if up.block_m % entry.down.block_m == 0]:
            try_entry("up", replace(min(fitting, key=by_down.__getitem__), up=up))
    allowed = [e for e in seen if e != present and TABLE_ROWS % e.up.block_m == 0]
    finalists = sorted(allowed, key=seen.__getitem__)[:3]
    final = {entry: ratio for entry in finalists if (ratio := measure("final", entry)) is not None}
    best = min(final, key=final.__getitem__, default=present)
    return best if final and (not works or final[best] <= 1 - NOISE) else present


def _glu_tile(present: Entry, down: Tile) -> Tile | None:
    """The tile of GLU learners, which is not tuned here, with at least the rows of GEMM 2."""
    glu = present.glu
    return glu and replace(glu, block_m=max(glu.block_m, down.block_m))


def candidates(present: Entry, tokens: int) -> list[tuple[str, Entry]]:
    """Role and entry of everything to compile: a search in which nothing is faster than the current entry."""
    found: list[tuple[str, Entry]] = []

    def never_faster(role: str, entry: Entry) -> float:
        if role != "final":
            found.append((role, entry))
        return 1.0 if role == "present" else 2.0

    search(present, tokens, never_faster)
    return found


def describe(entry: Entry) -> str:
    """Both tiles in short."""

    def short(tile: Tile) -> str:
        limit = f" {tile.registers} registers" if tile.registers else ""
        return f"{tile.block_m}x{tile.block_n}x{tile.block_k} {tile.warps} warps {tile.stages} stages{limit}"

    return f"{short(entry.up)} | {short(entry.down)} | split {entry.split}"
