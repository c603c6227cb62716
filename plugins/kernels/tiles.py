"""Which tile sizes run which problem: the table ``tiles.json``, measured or reasoned, one reason an entry.

``benchmarks/tune_kernels.py`` writes the table on a device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from acm_export.errors import KernelError

if TYPE_CHECKING:
    from acm_export.plugins.kernels.plan import Problem

ARCHITECTURES = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121")
PRECISIONS = ("half", "fp32", "tf32")
GROUP = 8
"""Tile rows that are walked together (staircase.py, ``grouped``); the usual value, not tuned yet."""

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
        alignment: 16: pointers, D and h must be multiples of it (bytes, values); 1: for what is not.
        max_tokens: Largest number of tokens that it is for, or None.
        up: Tile of GEMM 1.
        down: Tile of GEMM 2; its rows divide those of ``up``.
        split: Slices of K in each learner, summed afterwards; 0 for a whole K in one block.
        reason: Why, or the measurement that chose it.
    """

    archs: tuple[str, ...]
    precision: str
    alignment: int
    max_tokens: int | None
    up: Tile
    down: Tile
    split: int
    reason: str

    def __post_init__(self) -> None:
        if self.up.block_m % self.down.block_m:
            raise KernelError(
                f"down.block_m = {self.down.block_m} does not divide up.block_m = {self.up.block_m}: "
                "GEMM 2 would read rows that GEMM 1 never wrote"
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


def select(arch: str, precision: str, problem: Problem, *, aligned: bool) -> Entry:
    """The entry for a problem.

    Args:
        arch: ``sm_80`` and so on.
        precision: One of :data:`PRECISIONS`.
        problem: Shapes.
        aligned: D, h and every pointer are multiples of 16 (values, bytes).

    Raises:
        KernelError: The table has none for this architecture.
    """
    for entry in entries():
        fits = problem.tokens <= (entry.max_tokens or problem.tokens) and (aligned or entry.alignment == 1)
        splits = entry.split == 0 or problem.splits(entry.split)
        if arch in entry.archs and precision == entry.precision and fits and splits:
            return entry
    raise KernelError(f"no kernels for {arch}; the table has {', '.join(ARCHITECTURES)}")
