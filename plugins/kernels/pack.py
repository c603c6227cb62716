"""The pack: all kernels compiled ahead of time, for machines without a compiler.

    table.json    one row per kernel: key, symbol, threads, shared memory, arguments, offset in the other file; the tile
                  table; versions; the digest of the sources
    kernels.bin   the cubins, one after the other

``python -m acm_export.plugins.kernels.compile`` makes it. Reading it needs only the standard library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError

if TYPE_CHECKING:
    from acm_export.plugins.kernels.variants import Key

SCHEMA = 2
TABLE, CUBINS = "table.json", "kernels.bin"
_SOURCES = (
    "activation.py",
    "compile.py",
    "cuda/activation.cuh",
    "cuda/device.cuh",
    "cuda/down.cu",
    "cuda/pipeline.cuh",
    "cuda/tiles.cuh",
    "cuda/up.cu",
    "cuda/wgmma.cuh",
    "down.py",
    "down_int8.py",
    "hopper.py",
    "nvrtc.py",
    "pack.py",
    "plan.py",
    "quantize_rows.py",
    "rounding.py",
    "routing.py",
    "staircase.py",
    "tiles.json",
    "tiles.py",
    "up.py",
    "up_int8.py",
    "variants.py",
)
_HOW = "compile it with: python -m acm_export.plugins.kernels.compile (needs triton and NVRTC, no GPU)"


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel in the pack.

    Args:
        arch: GPU architecture, as in ``sm_90``.
        kernel: Name of the function; followed by ``_glu`` if its learners are GLUs.
        dtype: ``fp16``, ``bf16``, ``fp32`` or ``tf32``; empty where T does not matter.
        entry: Index into the tile table, CHOICES of a routing kernel, or the alignment of ``quantize_rows``.
        even: Whether it loads without masks.
        activation: The activation that it applies, or empty.
        symbol: Entry point in the cubin.
        threads: Threads per block.
        shared_bytes: Dynamic shared memory per block.
        registers: Registers per thread.
        arguments: Name and kind (``ptr``, ``i32`` or ``map``) of each argument. Triton's kernels take two more
            pointers, which may be null; the others ignore them.
        offset: Offset of the cubin in ``kernels.bin``.
        size: Size of the cubin in bytes.
        sha256: SHA-256 of the cubin in hex.
    """

    arch: str
    kernel: str
    dtype: str
    entry: int
    even: bool
    activation: str
    symbol: str
    threads: int
    shared_bytes: int
    registers: int
    arguments: tuple[tuple[str, str], ...]
    offset: int
    size: int
    sha256: str

    @property
    def key(self) -> Key:
        """Identifies the kernel among those of its architecture."""
        return self.kernel, self.dtype, self.entry, self.even, self.activation


@dataclass(frozen=True)
class Pack:
    """A pack that was read and checked.

    Args:
        kernels: All kernels.
        triton: Version of Triton that compiled them.
        nvrtc: Version of NVRTC that compiled those of plugins/kernels/cuda; empty if there are none.
        source_digest: SHA-256 of the sources.
        cubins: All cubins, one after the other.
    """

    kernels: tuple[Kernel, ...]
    triton: str
    nvrtc: str
    source_digest: str
    cubins: bytes

    @property
    def architectures(self) -> list[str]:
        """Architectures that it has kernels for."""
        return sorted({kernel.arch for kernel in self.kernels}, key=lambda arch: int(arch[3:]))

    def cubin(self, kernel: Kernel) -> bytes:
        """The cubin of one of its kernels."""
        return self.cubins[kernel.offset : kernel.offset + kernel.size]

    def architecture_for(self, capability: tuple[int, int], *, integrated: bool) -> str:
        """The architecture whose kernels a GPU runs.

        Args:
            capability: Compute capability, major and minor.
            integrated: Whether the GPU shares its memory with the CPU (Tegra: Orin, Thor).

        Returns:
            The exact architecture, or ``sm_80`` on discrete chips of the 8.x family.

        Raises:
            KernelError: The pack has no kernels for this GPU.
        """
        exact = f"sm_{capability[0]}{capability[1]}"
        held = self.architectures
        if exact in held:
            return exact
        if capability[0] == 8 and not integrated and "sm_80" in held:
            return "sm_80"
        kind = "an integrated" if integrated else "a discrete"
        raise KernelError(f"no kernels for {kind} GPU of architecture {exact}; the pack has {', '.join(held)}")

    def to_json(self, tile_table: object) -> dict[str, object]:
        """The content of table.json."""
        return {
            "schema": SCHEMA,
            "triton": self.triton,
            "nvrtc": self.nvrtc,
            "source_digest": self.source_digest,
            "cubins_sha256": hashlib.sha256(self.cubins).hexdigest(),
            "tiles": tile_table,
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def default_folder() -> Path:
    """Folder of the pack of the installed package."""
    return Path(str(resources.files("acm_export.plugins.kernels"))) / "pack"


def source_digest() -> str:
    """SHA-256 over everything that decides the content of a pack."""
    folder, digest = resources.files("acm_export.plugins.kernels"), hashlib.sha256()
    for name in _SOURCES:
        digest.update(name.encode() + b"\0" + folder.joinpath(name).read_bytes() + b"\0")
    return digest.hexdigest()


def read_pack(folder: Path | None = None) -> Pack:
    """Read a pack and check its schema, its digests, and that it was compiled from the installed sources.

    Args:
        folder: Folder of the pack; by default the one of the installed package.

    Raises:
        KernelError: The pack is missing, damaged or stale.
    """
    folder = folder or default_folder()
    try:
        table = json.loads((folder / TABLE).read_text())
        cubins = (folder / CUBINS).read_bytes()
    except FileNotFoundError as error:
        raise KernelError(f"no kernel pack at {folder}", _HOW) from error
    except (OSError, ValueError) as error:
        raise KernelError(f"the kernel pack at {folder} cannot be read: {error}", _HOW) from error
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        found = table.get("schema") if isinstance(table, dict) else None
        raise KernelError(f"the kernel pack at {folder} has schema {found}, expected {SCHEMA}", _HOW)
    try:
        kernels = tuple(
            Kernel(**(row | {"arguments": tuple((name, kind) for name, kind in row["arguments"])}))
            for row in table["kernels"]
        )
        pack = Pack(kernels, table["triton"], table["nvrtc"], table["source_digest"], cubins)
        damaged = hashlib.sha256(cubins).hexdigest() != table["cubins_sha256"]
        ends = max((kernel.offset + kernel.size for kernel in kernels), default=0)
    except (KeyError, TypeError, ValueError) as error:
        raise KernelError(f"the table of the kernel pack at {folder} is broken: {error}", _HOW) from error
    if damaged or ends != len(cubins):
        raise KernelError(f"{folder / CUBINS} is damaged: its content does not match {TABLE}", _HOW)
    if pack.source_digest != source_digest():
        raise KernelError(
            f"the kernel pack at {folder} is stale: compiled from sources {pack.source_digest[:12]}, "
            f"but {source_digest()[:12]} are installed",
            _HOW,
        )
    return pack
