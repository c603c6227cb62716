"""Which tile sizes run which problem: the table ``tiles.json``, measured or reasoned, one reason an entry.

``benchmarks/tune_kernels.py`` writes the table on a device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import KernelError

if TYPE_CHECKING:
    from acm_export.plugins.kernels.plan import Problem

ARCHITECTURES = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121")
PRECISIONS = ("half", "fp32", "tf32")
GROUP = 8
"""Tile rows that are walked together (staircase.py, ``grouped``); the usual value, not tuned yet."""

CUDA_VALUES = 1 << 35
"""x must have fewer values for the kernels of plugins/kernels/cuda, which number its 16-byte pieces in 32 bits."""

SCHEMA = 1


@dataclass(frozen=True)
class Tile:
    """Sizes of one GEMM's tile and how it is run.

    Args:
        block_m: Rows.
        block_n: Columns.
        block_k: Step along K.
        warps: Warps of a block.
        stages: Tiles in flight.
        registers: Most registers of a thread, or 0 for the compiler's choice.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    registers: int = 0


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Args:
        archs: Architectures that it is for.
        precision: ``half`` (float16 and bfloat16), ``fp32`` or ``tf32``.
        alignment: D and h must be multiples of it, and pointers of 16 bytes; 1: for any D, h and pointers.
        max_tokens: Largest number of tokens that it is for, or None.
        up: Tile of GEMM 1.
        down: Tile of GEMM 2; its rows divide those of ``up``.
        split: Slices of K in each learner, summed afterwards; 0 for a whole K in one block.
        reason: Why, or the measurement that chose it.
        language: Language of the kernels: ``triton``, or ``cuda`` (plugins/kernels/cuda; only in a pack).
    """

    archs: tuple[str, ...]
    precision: str
    alignment: int
    max_tokens: int | None
    up: Tile
    down: Tile
    split: int
    reason: str
    language: str = "triton"

    def __post_init__(self) -> None:
        if self.up.block_m % self.down.block_m:
            raise KernelError(
                f"down.block_m = {self.down.block_m} does not divide up.block_m = {self.up.block_m}: "
                "GEMM 2 would read rows that GEMM 1 never wrote"
            )

    def can_run(self, problem: Problem, *, aligned: bool) -> bool:
        """Whether it computes the problem correctly, be it the fastest choice or not.

        Args:
            problem: Shapes.
            aligned: D, h and every pointer are multiples of 16 (values, bytes).
        """
        divides = problem.model_dim % self.alignment == 0 == problem.hidden_dim % self.alignment
        in_range = self.language != "cuda" or problem.tokens * problem.model_dim < CUDA_VALUES
        return (
            (aligned or self.alignment == 1) and divides and in_range and (not self.split or problem.splits(self.split))
        )


@cache
def entries() -> tuple[Entry, ...]:
    """The table in its order: the first entry that fits is used."""
    text = resources.files("acm_export.plugins.kernels").joinpath("tiles.json").read_text()
    return parse(json.loads(text))


def parse(content: dict[str, Any]) -> tuple[Entry, ...]:
    """Read a table.

    Raises:
        KernelError: It is not a table of this schema.
    """
    if content.get("schema") != SCHEMA:
        raise KernelError(f"the tile table has schema {content.get('schema')}, expected {SCHEMA}")
    try:
        return tuple(
            Entry(**(entry | {
                "archs": tuple(entry["archs"]), "up": Tile(**entry["up"]), "down": Tile(**entry["down"]),
            }))
            for entry in content["entries"]
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise KernelError(f"the tile table is broken: {error}") from error


def select(
    arch: str,
    precision: str,
    problem: Problem,
    *,
    aligned: bool,
    packed: bool = False,
    table: tuple[Entry, ...] | None = None,
) -> Entry:
    """The entry for a problem.

    Args:
        arch: ``sm_80`` and so on.
        precision: One of :data:`PRECISIONS`.
        problem: Shapes.
        aligned: D, h and every pointer are multiples of 16 (values, bytes).
        packed: Whether kernels of a pack may be used.
        table: Entries to choose from; by default those of the package.

    Raises:
        KernelError: The table has none for this architecture.
    """
    for entry in table or entries():
        meant = problem.tokens <= (entry.max_tokens or problem.tokens) and (packed or entry.language == "triton")
        if meant and arch in entry.archs and precision == entry.precision and entry.can_run(problem, aligned=aligned):
            return entry
    raise KernelError(f"no kernels for {arch}; the table has {', '.join(ARCHITECTURES)}")
