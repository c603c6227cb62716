"""Every kernel of the pack for an architecture: its constants, its entry of the tile table, and its key.

Launches look up kernels by these keys, here and in the C++ plugin (``plugins/tensorrt/core/pack.h``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels.plan import QUANTIZE_BLOCK, ROUTING_BLOCKS
from acm_export.plugins.kernels.tiles import GROUP, Entry, Tile, entries

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_WARPS = 4
"""Warps per block of the kernels without matrix products."""

Key = tuple[str, str, int, bool, str]
Constants = dict[str, "int | str | bool | None"]

DTYPES = {"half": ("fp16", "bf16"), "fp32": ("fp32",), "tf32": ("tf32",), "int8": ("fp32", "fp16", "bf16")}
"""T of the kernels for each precision of the table."""

INT8_KERNELS = ("quantize_rows", "up_int8", "up_int8_glu", "down_int8", "down_split_int8")
"""Kernels of the int8 operators; they share those of routing."""

GLU = "_glu"
"""Ends the names of kernels that are the same function as without it, given V1. Only GEMM 1 has them."""

WITHOUT_VALUE: dict[str, None] = dict.fromkeys(("v1", "c1"))
WITHOUT_VALUE_INT8: dict[str, None] = dict.fromkeys(("v1_t", "t1", "c1"))
"""Arguments of GEMM 1 that are None where learners are not GLUs."""

ALIGNMENTS = (16, 1)
"""Kernels of ``quantize_rows`` are identified by the alignment of D and of all pointers instead of a table entry."""


def activation_precision(precision: str, *, interpreted: bool = False) -> int:
    """ACTIVATION_PRECISION of ``up`` (activation.py): FLOAT32, ROUNDED or ROUNDED_HARDWARE.

    Args:
        precision: Precision of the table's entry.
        interpreted: Whether the kernels run in Triton's interpreter.
    """
    if precision not in ("half", "int8"):
        return 0
    return 1 if interpreted else 2


def has_kernels_without_masks(entry: Entry) -> bool:
    """Whether the pack has kernels without masks for shapes that allow them (grids.py, ``even``).

    float32 is compute-bound: masks cost too little there to justify more kernels.
    """
    return entry.alignment > 1 and entry.precision in ("half", "int8")


def has_ups_without_masks(entry: Entry, *, glu: bool) -> bool:
    """The same for GEMM 1. With GLU learners it has them for many tokens only; few are bound by reading weights.

    Args:
        entry: Entry of the tile table.
        glu: Whether learners are GLUs.
    """
    return has_kernels_without_masks(entry) and (not glu or entry.max_tokens is None)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel.

    Args:
        kernel: Name of the function; followed by :data:`GLU` if its learners are GLUs.
        dtype: ``fp16``, ``bf16``, ``fp32`` or ``tf32``; empty where T does not matter.
        entry: Index into the tile table, the CHOICES of a routing kernel, or the alignment of ``quantize_rows``.
        even: Whether it loads without masks (grids.py, ``even``).
        aligned: Whether pointers, D and h are multiples of 16.
        constants: Compile-time arguments.
        warps: Warps per block.
        stages: Stages of the software pipeline.
        registers: Most registers per thread, or 0 for the compiler's choice.
        activation: The activation that it applies; empty if it applies none, or the one that a launch names.
    """

    kernel: str
    dtype: str
    entry: int
    even: bool
    aligned: bool
    constants: Constants
    warps: int
    stages: int = 1
    registers: int = 0
    activation: str = ""

    @property
    def key(self) -> Key:
        """Identifies the kernel among those of an architecture."""
        return self.kernel, self.dtype, self.entry, self.even, self.activation

    @property
    def function(self) -> str:
        """Name of the function."""
        return self.kernel.removesuffix(GLU)

    @property
    def language(self) -> str:
        """``triton`` or ``cuda``."""
        return "cuda" if self.kernel in hopper.SOURCES else "triton"


def variants(arch: str) -> Iterator[Variant]:
    """All kernels for an architecture."""
    yield from _routing()
    yield from _quantize_rows()
    for index, entry in enumerate(entries()):
        if arch not in entry.archs:
            continue
        if entry.language == "cuda":
            yield from _hopper(index, entry)
            continue
        if entry.precision == "int8":
            yield from _int8(index, entry)
            continue
        yield from _float(index, entry)


def _float(index: int, entry: Entry) -> Iterator[Variant]:
    for dtype in DTYPES[entry.precision]:
        for even in (True, False) if has_kernels_without_masks(entry) else (False,):
            common: Constants = {"EVEN": even, "PRECISION": "tf32" if dtype == "tf32" else "ieee"}
            up = {**common, "GROUP": GROUP, "ACTIVATION_PRECISION": activation_precision(entry.precision)}
            yield _product("up", dtype, index, entry, entry.up, {**up, **WITHOUT_VALUE})
            if entry.glu and (not even or has_ups_without_masks(entry, glu=True)):
                yield _product("up" + GLU, dtype, index, entry, entry.glu, up)
            if entry.split:
                yield _product("down_split", dtype, index, entry, entry.down, {**common, "SPLIT": entry.split})
            else:
                yield _product("down", dtype, index, entry, entry.down, {**common, "GROUP": GROUP})


def _product(kernel: str, dtype: str, index: int, entry: Entry, tile: Tile, constants: Constants) -> Variant:
    """A matrix product by Triton."""
    return Variant(
        kernel,
        dtype,
        index,
        bool(constants["EVEN"]),
        entry.alignment > 1,
        {**_blocks(tile), **constants},
        tile.warps,
        tile.stages,
        tile.registers,
    )


def _routing() -> Iterator[Variant]:
    for choices, block in ROUTING_BLOCKS:
        for kernel in ("route_one_block", "count_tokens", "place_tokens"):
            yield Variant(kernel, "", choices, False, False, {"BLOCK": block, "CHOICES": choices}, PLAIN_WARPS)


def _quantize_rows() -> Iterator[Variant]:
    rows, columns = QUANTIZE_BLOCK
    for dtype in DTYPES["int8"]:
        for alignment in ALIGNMENTS:
            constants: Constants = {"BLOCK_M": rows, "BLOCK_K": columns}
            yield Variant("quantize_rows", dtype, alignment, False, alignment > 1, constants, PLAIN_WARPS)


def _int8(index: int, entry: Entry) -> Iterator[Variant]:
    for even in (True, False) if has_kernels_without_masks(entry) else (False,):
        common: Constants = {"EVEN": even}
        up = {**common, "GROUP": GROUP, "ACTIVATION_PRECISION": activation_precision("int8")}
        yield _product("up_int8", "", index, entry, entry.up, {**up, **WITHOUT_VALUE_INT8})
        if entry.glu and (not even or has_ups_without_masks(entry, glu=True)):
            yield _product("up_int8" + GLU, "", index, entry, entry.glu, up)
        for dtype in DTYPES["int8"]:
            if entry.split:
                yield _product("down_split_int8", dtype, index, entry, entry.down, {**common, "SPLIT": entry.split})
            else:
                yield _product("down_int8", dtype, index, entry, entry.down, {**common, "GROUP": GROUP})


def _hopper(index: int, entry: Entry) -> Iterator[Variant]:
    for dtype in DTYPES[entry.precision]:
        for kernel, tile, activations in ((hopper.UP, entry.up, ACTIVATIONS), (hopper.DOWN, entry.down, ("",))):
            for activation in activations:
                constants: Constants = {
                    "ACM_BFLOAT16": str(dtype == "bf16").lower(),
                    "ACM_BLOCK_N": tile.block_n,
                    "ACM_STAGES": tile.stages,
                    "ACM_SHARED_BYTES": hopper.shared_bytes(tile),
                }
                if activation:
                    constants["ACM_ACTIVATION"] = ACTIVATIONS.index(activation)
                yield Variant(
                    kernel, dtype, index, False, True, constants, tile.warps, tile.stages, activation=activation
                )


def _blocks(tile: Tile) -> dict[str, int]:
    return {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
