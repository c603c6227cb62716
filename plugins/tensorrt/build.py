"""Compile the plugin library on this machine, once for each combination of what goes into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import OutputError, PluginError
from acm_export.base.files import check_input, move_into_place, staging_folder
from acm_export.plugins.kernels.pack import default_folder, read_pack
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from acm_export.plugins.kernels.pack import Pack
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

LIBRARY = "libacm_gated_learners.so"
_TARGET = "acm_gated_learners"
_SOURCES = Path(__file__).parent
_SOURCE_FOLDERS = ("adapter", "cmake", "core")
_SOURCE_FILES = ("CMakeLists.txt", "embed.py")


@dataclass(frozen=True)
class BuiltPlugin:
    """What :func:`build_plugin` made and from what.

    Args:
        library: The library.
        headers: Of the TensorRT that it serves.
        cuda: Folder of the CUDA headers.
        compiler: The C++ compiler, as it calls itself.
        architectures: GPUs that it has kernels for.
        size: Bytes.
        cached: Whether nothing had to be compiled.
    """

    library: Path
    headers: TensorRTHeaders
    cuda: Path
    compiler: str
    architectures: list[str]
    size: int
    cached: bool


@dataclass(frozen=True)
class Tools:
    """What compiles, and as what the compiler calls itself."""

    cmake: str
    compiler: str
    compiler_version: str


def build_plugin(
    output: Path,
    *,
    tensorrt_root: Path | None = None,
    cuda_root: Path | None = None,
    pack_folder: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> BuiltPlugin:
    """Compile the plugin, or take it from the cache, and write it whole or not at all.

    Args:
        output: The library to write.
        tensorrt_root: Where TensorRT is; else it is looked for (headers.py).
        cuda_root: Where CUDA is; else it is looked for.
        pack_folder: Kernel pack to embed; by default that of the package.
        log: Receives a line for each thing found or done.

    Returns:
        What was made.

    Raises:
        UsageError: A folder that was named does not exist.
        PluginError: Headers, compiler or CMake are missing, or the compiler failed.
        KernelError: The kernel pack is missing, damaged or stale.
        OutputError: The output cannot be written.
    """
    if output.is_dir():
        raise OutputError(f"{output} is a folder", "name a file with -o")
    for folder in (tensorrt_root, cuda_root, pack_folder):
        if folder is not None:
            check_input(folder, "folder")
    headers, cuda = tensorrt_headers(tensorrt_root), cuda_headers(cuda_root)
    log(f"TensorRT {headers.version_text} ({headers.interface}): headers in {headers.folder}")
    log(f"CUDA headers in {cuda}")
    pack_folder = pack_folder or default_folder()
    pack, tools = read_pack(pack_folder), find_tools()
    with staging_folder(output) as staging:  # before the work, so that an output that cannot be written costs no time
        kept = _cache_folder() / _digest(headers, cuda, pack, tools) / LIBRARY
        cached = kept.is_file()
        if not cached:
            log(f"compiling with {tools.compiler_version}")
            _compile(kept, headers, cuda, pack_folder, tools)
        shutil.copyfile(kept, staging / LIBRARY)
        move_into_place(staging / LIBRARY, output)
    size = output.stat().st_size
    return BuiltPlugin(output, headers, cuda, tools.compiler_version, pack.architectures, size, cached)


def find_tools() -> Tools:
    """Find CMake and the C++ compiler (CXX, else c++).

    Raises:
        PluginError: One is missing; the hint installs it.
    """
    name = os.environ.get("CXX") or "c++"
    compiler = shutil.which(name)
    if compiler is None:
        raise PluginError(f"no C++ compiler: {name} is not on the PATH", "install one (apt install g++), or set CXX")
    cmake = shutil.which("cmake")
    if cmake is None:
        raise PluginError("cmake is not on the PATH", "install it: apt install cmake, or pip install cmake")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return Tools(cmake, compiler, next(iter(version.splitlines()), compiler))


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "acm-export" / "plugins"


def _digest(headers: TensorRTHeaders, cuda: Path, pack: Pack, tools: Tools) -> str:
    """Of all that decides what the library does."""
    digest = hashlib.sha256()
    for path in _source_paths():
        digest.update(f"{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes() + b"\0")
    digest.update(hashlib.sha256(pack.cubins).digest())
    what = (
        pack.source_digest, pack.triton, headers.version_text, str(headers.folder), str(cuda), tools.compiler,
        tools.compiler_version, os.environ.get("CXXFLAGS", ""),
    )  # fmt: skip
    digest.update("\0".join(what).encode())
    return digest.hexdigest()


def _source_paths() -> Iterator[Path]:
    for name in _SOURCE_FILES:
        yield _SOURCES / name
    for folder in _SOURCE_FOLDERS:
        yield from sorted(path for path in (_SOURCES / folder).iterdir() if path.is_file())


def _compile(library: Path, headers: TensorRTHeaders, cuda: Path, pack_folder: Path, tools: Tools) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the cache folder {library.parent}: {error.strerror}", "set XDG_CACHE_HOME to another"
        ) from error
    with staging_folder(library) as folder:
        _run(
            tools.cmake, "-S", str(_SOURCES), "-B", str(folder), f"-DCMAKE_CXX_COMPILER={tools.compiler}",
            f"-DPython3_EXECUTABLE={sys.executable}", f"-DACM_PACK={pack_folder.absolute()}",
            f"-DACM_TENSORRT_INCLUDE={headers.folder.absolute()}", f"-DACM_CUDA_INCLUDE={cuda.absolute()}",
        )  # fmt: skip
        jobs = str(len(os.sched_getaffinity(0)))
        _run(tools.cmake, "--build", str(folder), "--target", _TARGET, "--parallel", jobs)
        move_into_place(folder / LIBRARY, library)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = next((i for i, line in enumerate(lines) if "rror" in line), max(len(lines) - 10, 0))
        raise PluginError(
            f"compiling the plugin failed ({Path(command[0]).name} returned {done.returncode}):\n"
            + "\n".join(lines[told : told + 10]),
            "headers of another TensorRT or CUDA can be named with --tensorrt-root and --cuda-root",
        )
