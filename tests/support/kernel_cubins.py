"""Read facts about compiled kernels, with Triton's tools and without."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from acm_export.plugins.kernels.compile import Compiled
    from acm_export.plugins.kernels.variants import Key

ABI_VERSION = 8
"""Offset of this byte in an ELF file."""


def compiled(arch: str, keys: Iterable[Key], cache_folder: Path) -> list[Compiled]:
    """Compile some kernels of an architecture, by their keys; run it in the process that compiles."""
    os.environ["TRITON_CACHE_DIR"] = str(cache_folder)
    from acm_export.plugins.kernels.compile import compile_variant
    from acm_export.plugins.kernels.variants import variants

    by_key = {variant.key: variant for variant in variants(arch)}
    return [compile_variant(arch, by_key[key]) for key in keys]


def ptx_parameters(ptx: str) -> list[str]:
    """Kinds of the entry's parameters, in order."""
    entry = ptx[ptx.index(".entry") :]
    kinds = re.findall(r"\.param \.([a-z]+\d+)( \.ptr)?", entry[: entry.index(")")])
    return ["ptr" if pointer else f"i{kind[1:]}" for kind, pointer in kinds]


def stack_bytes(cubin: Path) -> int:
    """Local memory of a thread, spilled registers included."""
    report = _cuobjdump("-res-usage", cubin)
    return max(int(size) for found in re.findall(r"STACK:(\d+).* LOCAL:(\d+)", report) for size in found)


def machine_code(cubin: Path) -> str:
    """SASS."""
    return _cuobjdump("-sass", cubin)


def _cuobjdump(*arguments: str | Path) -> str:
    triton = find_spec("triton")  # not imported: see kernel_processes.py
    assert triton is not None
    assert triton.origin is not None
    tool = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout
