"""The tile table ``tiles.json``: tile sizes for each kind of problem, measured or reasoned, with a reason per entry.

``benchmarks/tune_kernels.py`` writes the table on a GPU.
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
PRECISIONS = ("half", "fp32", "tf32", "int8")
GROUP = 8
"""Rows of tiles in a group (staircase.py, ``grouped``); the usual value, not tuned yet."""

CUDA_VALUES = 1 << 35
"""x must have fewer values for the kernels in plugins/kernels/cuda, which index its 16-byte pieces with 32 bits."""

SCHEMA = 1


@dataclass(frozen=True)
class Tile:
    """Tile sizes of one GEMM, and launch parameters.

    Args:
        block_m: Rows of the tile.
        block_n: Columns of the tile.
        block_k: Step along K.
        warps: Warps per block.
        stages: Stages of the software pipeline.
        registers: Most registers per thread, or 0 for the compiler's choice.
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
        archs: Architectures that the entry is for.
        precision: ``half`` (float16 and bfloat16), ``fp32``, ``tf32`` or ``int8`` (the int8 operator, any T).
        alignment: D and h must be multiples of this, and pointers of 16 bytes; 1 allows any D, h and pointers.
        max_tokens: Largest number of tokens, or None for no limit.
        up: Tile of GEMM 1.
        down: Tile of GEMM 2; its rows must divide those of ``up``.
        split: Slices of K per learner, summed afterwards; 0 to compute all of K in one block.
        reason: Why these sizes, or the measurement that chose them.
        glu: Tile of GEMM 1 of the GLU operators, which holds two sums; ``down`` is theirs too. None if the entry is not
            for them.
        glu_reason: The same as ``reason`` for ``glu``.
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
    glu: Tile | None = None
    glu_reason: str = ""
    language: str = "triton"

    def __post_init__(self) -> None:
        for name, tile in (("up", self.up), ("glu", self.glu)):
            if tile and tile.block_m % self.down.block_m:
                raise KernelError(
                    f"down.block_m = {self.down.block_m} does not divide {name}.block_m = {tile.block_m}: "
                    "GEMM 2 would read rows that GEMM 1 never wrote"
                )

    def up_for(self, problem: Problem) -> Tile:
        """Tile of GEMM 1.

        Raises:
            KernelError: Learners are GLUs, and the entry is not for them.
        """
        tile = self.glu if problem.glu else self.up
        if tile is None:
            raise KernelError("these tile sizes have none for GEMM 1 of GLU learners")
        return tile

    def can_run(self, problem: Problem, *, aligned: bool) -> bool:
        """Whether the entry computes the problem correctly, even if it is not the fastest choice.

        Args:
            problem: Shapes.
            aligned: Whether D, h and every pointer are multiples of 16 (values, bytes).
        """
        has_tile = self.glu is not None or not problem.glu
        divides = problem.model_dim % self.alignment == 0 == problem.hidden_dim % self.alignment
        in_range = self.language != "cuda" or problem.tokens * problem.model_dim < CUDA_VALUES
        splits = not self.split or problem.splits(self.split)
        return has_tile and (aligned or self.alignment == 1) and divides and in_range and splits


@cache
def entries() -> tuple[Entry, ...]:
    """The tile table in order; the first entry that fits is used."""
    text = resources.files("acm_export.plugins.kernels").joinpath("tiles.json").read_text()
    return parse(json.loads(text))


def parse(content: dict[str, Any]) -> tuple[Entry, ...]:
    """Parse a tile table.

    Raises:
        KernelError: The table has another schema or is broken.
    """
    if content.get("schema") != SCHEMA:
        raise KernelError(f"the tile table has schema {content.get('schema')}, expected {SCHEMA}")
    try:
        return tuple(
            Entry(
                **(
                    entry
                    | {
                        "archs": tuple(entry["archs"]),
                        "up": Tile(**entry["up"]),
                        "down": Tile(**entry["down"]),
                        "glu": Tile(**entry["glu"]) if entry.get("glu") else None,
                    }
                )
            )
            for entry in content["entries"]
        )
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
        arch: GPU architecture, as in ``sm_80``.
        precision: One of :data:`PRECISIONS`.
        problem: Shapes.
        aligned: Whether D, h and every pointer are multiples of 16 (values, bytes).
        packed: Whether kernels of a pack may be used.
        table: Entries to choose from; by default those of the package.

    Raises:
        KernelError: The table has no entry for this architecture.
    """
    for entry in table or entries():
        fits = problem.tokens <= (entry.max_tokens or problem.tokens) and (packed or entry.language == "triton")
        if fits and arch in entry.archs and precision == entry.precision and entry.can_run(problem, aligned=aligned):
            return entry
    raise KernelError(f"no kernels for {arch}; the table has {', '.join(ARCHITECTURES)}")
