"""Turn a kernel pack into C++ sources: ``python -m acm_export.plugins.tensorrt.embed PACK OUT``.

    pack_table.cpp   the tile table and one row per kernel, as constants of the types in core/pack.h
    cubins.bin       the cubins, each at a multiple of ALIGNMENT, for the assembler to include

The library then needs no file beside it and no JSON parser. CMakeLists.txt calls this; it needs no Triton.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from acm_export.plugins.kernels.pack import Kernel, Pack
    from acm_export.plugins.kernels.tiles import Entry, Tile

TABLE, CUBINS = "pack_table.cpp", "cubins.bin"
ALIGNMENT = 64
"""Alignment of a cubin in the library. An ELF file that is read in place needs 8; a cache line costs nothing more."""

_TEMPLATE = """\
// Made by embed.py from a kernel pack. Do not edit.
#include "core/cubins.h"
#include "core/pack.h"

namespace acm {{
namespace {{

{arrays}

constexpr Entry kEntries[] = {{
{entries}
}};

constexpr Kernel kKernels[] = {{
{kernels}
}};

}}  // namespace

const Pack& pack() {{
  static const Pack instance = {{
      "{triton}", "{digest}", {{kEntries, {num_entries}}}, {{kKernels, {num_kernels}}}, acm_cubins,
  }};
  return instance;
}}

}}  // namespace acm
"""


def embed(pack: Pack, folder: Path) -> None:
    """Write both files.

    Args:
        pack: A pack from :func:`acm_export.plugins.kernels.pack.read_pack`.
        folder: Folder to write; created if it is missing.

    Raises:
        KernelError: A name in the pack is not a valid C++ identifier.
    """
    folder.mkdir(parents=True, exist_ok=True)
    offsets, blob = [], bytearray()
    for kernel in pack.kernels:
        offsets.append(len(blob))
        blob += pack.cubin(kernel)
        blob += bytes(-len(blob) % ALIGNMENT)
    (folder / CUBINS).write_bytes(blob)
    (folder / TABLE).write_text(table_source(pack, entries(), offsets))


def table_source(pack: Pack, tile_table: Sequence[Entry], offsets: Sequence[int]) -> str:
    """The C++ source of the table.

    Args:
        pack: The kernels.
        tile_table: The tile table that ``entry`` of a kernel refers to.
        offsets: Offsets of the cubins in cubins.bin.
    """
    arrays = _Arrays()
    entry_rows = [f"    {_entry(entry, arrays)}," for entry in tile_table]
    kernel_rows = [
        f"    {_kernel(kernel, offset, arrays)}," for kernel, offset in zip(pack.kernels, offsets, strict=True)
    ]
    return _TEMPLATE.format(
        arrays="\n".join(arrays.sources),
        entries="\n".join(entry_rows),
        kernels="\n".join(kernel_rows),
        triton=_checked(pack.triton, r"[\w.+-]+"),
        digest=_checked(pack.source_digest, r"[0-9a-f]+"),
        num_entries=len(entry_rows),
        num_kernels=len(kernel_rows),
    )


class _Arrays:
    """Constant arrays that the rows point to, without duplicates."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self._names: dict[tuple[str, tuple[str, ...]], str] = {}

    def span(self, kind: str, values: Iterable[str]) -> str:
        """Initializer of a span over these values."""
        key = kind, tuple(values)
        if key not in self._names:
            self._names[key] = f"kArray{len(self._names)}"
            self.sources.append(f"constexpr {kind} {self._names[key]}[] = {{{', '.join(key[1])}}};")
        return f"{{{self._names[key]}, {len(key[1])}}}"


def _entry(entry: Entry, arrays: _Arrays) -> str:
    archs = arrays.span("std::int32_t", (str(_number(arch)) for arch in entry.archs))
    precision = {"half": "kHalf", "fp32": "kFp32", "tf32": "kTf32"}[entry.precision]
    language = {"triton": "kTriton", "cuda": "kCuda"}[entry.language]
    return (
        f"{{{archs}, Precision::{precision}, {entry.alignment}, {entry.max_tokens or 0}, {_tile(entry.up)}, "
        f"{_tile(entry.down)}, {entry.split}, Language::{language}}}"
    )


def _tile(tile: Tile) -> str:
    return f"{{{tile.block_m}, {tile.block_n}, {tile.block_k}}}"


def _kernel(kernel: Kernel, offset: int, arrays: _Arrays) -> str:
    arguments = arrays.span("Argument", (f"Argument::{_identifier(name)}" for name, _ in kernel.arguments))
    activation = ACTIVATIONS.index(kernel.activation) if kernel.activation else -1
    return (
        f"{{{_number(kernel.arch)}, KernelName::{_identifier(kernel.kernel)}, "
        f"KernelType::{_identifier(kernel.dtype or 'any')}, {kernel.entry}, {str(kernel.even).lower()}, "
        f'{activation}, "{_identifier(kernel.symbol)}", {kernel.threads}, {kernel.shared_bytes}, {arguments}, '
        f"{offset}}}"
    )


def _number(arch: str) -> int:
    return int(_checked(arch, r"sm_\d+")[3:])


def _identifier(name: str) -> str:
    return _checked(name, r"[A-Za-z_]\w*")


def _checked(value: str, pattern: str) -> str:
    if not re.fullmatch(pattern, value, re.ASCII):
        raise KernelError(f"the kernel pack has the name {value!r}, expected the form {pattern}")
    return value


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(pack: Path, out: Path) -> None:
    """Write PACK as C++ sources into the folder OUT."""
    embed(read_pack(pack), out)


if __name__ == "__main__":
    main()
