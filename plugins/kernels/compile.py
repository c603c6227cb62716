"""Compile every kernel for every architecture into a pack: ``python -m acm_export.plugins.kernels.compile``.

Needs Triton and NVRTC, but no GPU. The same sources and compilers give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress

from acm_export.base.errors import KernelError
from acm_export.base.files import move_folder_into_place, staging_folder
from acm_export.base.optional import require
from acm_export.plugins.kernels import hopper, nvrtc
from acm_export.plugins.kernels.pack import CUBINS, TABLE, Kernel, Pack, default_folder, source_digest
from acm_export.plugins.kernels.tiles import ARCHITECTURES
from acm_export.plugins.kernels.variants import INT8_KERNELS, Variant, variants

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULES = {
    "up": "up",
    "down": "down",
    "down_split": "down",
    "route_one_block": "routing",
    "count_tokens": "routing",
    "place_tokens": "routing",
    "quantize_rows": "quantize_rows",
    "up_int8": "up_int8",
    "down_int8": "down_int8",
    "down_split_int8": "down_int8",
}
_TENSORS = {"x", "w1", "b1", "v1", "c1", "hidden", "w2", "b2", "y"}
_FLOAT32 = {"gate_logits", "thresholds", "partial"}
_INT32 = {"counts", "order", "reach", "histograms", "arrivals"}
_INT8_OPERATOR = {
    "fp32": {"x_mult", "s1", "b1", "t1", "c1", "h_mult", "s2", "b2"},
    "i8": {"q", "w1_t", "v1_t", "h_zero", "hidden", "w2_t"},
    "i32": {"partial"},
}
"""Types in the kernels of the int8 operators, apart from T and from the tensors of routing."""

_DIVISIBLE = {"model_dim", "hidden_dim"}

_NEWER_PTXAS = ("sm_110",)
"""Architectures that the older of Triton's two ptxas does not know. It assembles all others: the newer one emits ELF
files of ABI version 8 for sm_8x and sm_90, which drivers for CUDA 12, such as that of JetPack 6, reject."""

_SETTINGS = {
    "TRITON_DISABLE_LINE_INFO": "1",  # cubins four times smaller
    "TRITON_DEFAULT_FP_FUSION": "1",  # explicit, because the default differs between versions
}


@dataclass(frozen=True)
class Compiled:
    """One compiled kernel.

    Args:
        kernel: Its row of the table, without the offset.
        cubin: The binary.
        ptx: The PTX that it was assembled from; empty for CUDA C++.
        stack_bytes: Local memory per thread, including spilled registers.
    """

    kernel: Kernel
    cubin: bytes
    ptx: str
    stack_bytes: int


def compile_variant(arch: str, variant: Variant) -> Compiled:
    """Compile one kernel for one architecture.

    Args:
        arch: GPU architecture, as in ``sm_90``.
        variant: The kernel to compile.

    Raises:
        MissingDependencyError: Triton or NVRTC is not installed.
    """
    if variant.language == "cuda":
        return _compile_cuda(arch, variant)
    os.environ.update(_SETTINGS)
    triton = require("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    capability = int(arch[3:])
    if arch in _NEWER_PTXAS:
        os.environ.pop("TRITON_PTXAS_BLACKWELL_PATH", None)
    else:
        os.environ["TRITON_PTXAS_BLACKWELL_PATH"] = triton.knobs.nvidia.ptxas.path
    module = __import__(f"acm_export.plugins.kernels.{_MODULES[variant.function]}", fromlist=[variant.function])
    function = getattr(module, variant.function)
    names: list[str] = function.arg_names
    types = {name: "constexpr" if name in variant.constants else _type(name, variant) for name in names}
    aligned = [n for n in names if variant.aligned and (types[n].startswith("*") or n in _DIVISIBLE)]
    source = ASTSource(
        function,
        types,
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options: dict[str, int] = {"num_warps": variant.warps, "num_stages": variant.stages}
    if variant.registers:
        options["maxnreg"] = variant.registers
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    metadata, cubin = built.metadata, built.asm["cubin"]
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise KernelError(f"{variant.kernel} for {arch} needs scratch memory, which the plugin does not provide")
    registers, stack = _resources(cubin, Path(triton.knobs.nvidia.cuobjdump.path))
    arguments = tuple((n, "ptr" if types[n].startswith("*") else "i32") for n in names if types[n] != "constexpr")
    row = Kernel(
        arch,
        *variant.key,
        metadata.name,
        32 * metadata.num_warps,
        metadata.shared,
        registers,
        arguments,
        0,
        len(cubin),
        hashlib.sha256(cubin).hexdigest(),
    )
    return Compiled(row, cubin, built.asm["ptx"], stack)


def _compile_cuda(arch: str, variant: Variant) -> Compiled:
    macros = {name: value for name, value in variant.constants.items() if isinstance(value, (int, str))}
    cubin = nvrtc.compile_cuda(hopper.SOURCES[variant.kernel], f"{arch}a", macros)
    registers, stack = _resources(cubin, Path(require("triton").knobs.nvidia.cuobjdump.path))
    arguments = tuple((name, hopper.kind(name)) for name in hopper.ARGUMENTS[variant.kernel])
    row = Kernel(
        arch,
        *variant.key,
        variant.kernel,
        32 * variant.warps,
        int(macros["ACM_SHARED_BYTES"]),
        registers,
        arguments,
        0,
        len(cubin),
        hashlib.sha256(cubin).hexdigest(),
    )
    return Compiled(row, cubin, "", stack)


def _type(name: str, variant: Variant) -> str:
    if variant.kernel in INT8_KERNELS:
        for kind, arguments in _INT8_OPERATOR.items():
            if name in arguments:
                return f"*{kind}"
    if name in _TENSORS:
        return "*fp32" if variant.dtype == "tf32" else f"*{variant.dtype}"
    if name in _FLOAT32:
        return "*fp32"
    return "*i32" if name in _INT32 else "i32"


def _resources(cubin: bytes, cuobjdump: Path) -> tuple[int, int]:
    """Registers and stack bytes per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(  # noqa: S603
            [str(cuobjdump), "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if found is None:
        raise KernelError(f"cuobjdump reports no resources: {report.strip()[:200]}")
    return int(found[1]), int(found[2])


def compile_pack(architectures: Sequence[str], *, workers: int | None = None) -> tuple[Pack, list[Compiled]]:
    """Compile all kernels for the given architectures.

    Args:
        architectures: Some of :data:`acm_export.plugins.kernels.tiles.ARCHITECTURES`.
        workers: Number of processes; by default one per core.

    Returns:
        The pack, and its compiled kernels in the same order.
    """
    triton = require("triton")
    tasks = [(arch, variant) for arch in architectures for variant in variants(arch)]
    compiler = nvrtc.version() if any(variant.language == "cuda" for _, variant in tasks) else ""
    compiled, rows, offset = [], [], 0
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, Progress(transient=True) as progress:
        for result in progress.track(
            pool.map(compile_variant, *zip(*tasks, strict=True), chunksize=4), len(tasks), description="compiling"
        ):
            rows.append(replace(result.kernel, offset=offset))
            offset += result.kernel.size
            compiled.append(result)
    cubins = b"".join(result.cubin for result in compiled)
    return Pack(tuple(rows), triton.__version__, compiler, source_digest(), cubins), compiled


def write_pack(pack: Pack, folder: Path) -> None:
    """Write a pack, whole or not at all.

    Raises:
        OutputError: The folder cannot be written, or has other files in it.
    """
    tiles = json.loads(resources.files("acm_export.plugins.kernels").joinpath("tiles.json").read_text())
    with staging_folder(folder) as staging:
        content = staging / "pack"
        content.mkdir()
        (content / TABLE).write_text(json.dumps(pack.to_json(tiles), indent=1) + "\n")
        (content / CUBINS).write_bytes(pack.cubins)
        move_folder_into_place(content, folder)


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; by default that of the package."
)
@click.option(
    "--arch",
    "architectures",
    type=click.Choice(ARCHITECTURES),
    multiple=True,
    default=ARCHITECTURES,
    help="Compile only for this architecture; may be repeated.",
)
def main(output: Path | None, architectures: Sequence[str]) -> None:
    """Compile the GPU kernels ahead of time. No GPU is needed."""
    folder = output or default_folder()
    pack, _ = compile_pack(architectures)
    write_pack(pack, folder)
    click.echo(
        f"{folder}: {len(pack.kernels)} kernels for {', '.join(pack.architectures)}, {len(pack.cubins) / 1e6:.1f} MB, "
        f"Triton {pack.triton}" + (f", NVRTC {pack.nvrtc}" if pack.nvrtc else "")
    )


if __name__ == "__main__":
    main()
