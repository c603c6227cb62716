"""Compile the plugin library on this machine, and cache it by everything that goes into it."""

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
from acm_export.base.progress import Silent
from acm_export.plugins.kernels.pack import default_folder, read_pack
from acm_export.plugins.tensorrt.cache import cache_folder, staging_in_cache
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.base.json_fields import JsonObject
    from acm_export.base.progress import Progress
    from acm_export.plugins.kernels.pack import Pack
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

LIBRARY = "libacm_gated_learners.so"
TARGET = "acm_gated_learners"
"""Name of the plugin in CMakeLists.txt."""

_SOURCES = Path(__file__).parent
_SOURCE_FOLDERS = ("adapter", "cmake", "core")
_SOURCE_FILES = ("CMakeLists.txt", "embed.py")


@dataclass(frozen=True)
class BuiltPlugin:
    """Result of :func:`build_plugin`.

    Args:
        library: Path of the library.
        headers: Headers of the TensorRT that it was compiled for.
        cuda: Folder of the CUDA headers.
        compiler: Version line of the C++ compiler.
        architectures: GPU architectures that the library has kernels for.
        size: Size of the library in bytes.
        cached: Whether the library came from the cache.
    """

    library: Path
    headers: TensorRTHeaders
    cuda: Path
    compiler: str
    architectures: list[str]
    size: int
    cached: bool

    def to_json(self) -> JsonObject:
        """The result for ``--json``."""
        headers = self.headers
        return {
            "output": str(self.library),
            "bytes": self.size,
            "cached": self.cached,
            "tensorrt": {
                "version": headers.version_text,
                "headers": str(headers.folder),
                "interface": headers.interface,
            },
            "cuda_headers": str(self.cuda),
            "compiler": self.compiler,
            "architectures": self.architectures,
        }


@dataclass(frozen=True)
class Tools:
    """Paths of CMake and of the C++ compiler, and the compiler's version line."""

    cmake: str
    compiler: str
    compiler_version: str


def build_plugin(
    output: str | os.PathLike[str] = LIBRARY,
    *,
    tensorrt_root: str | os.PathLike[str] | None = None,
    cuda_root: str | os.PathLike[str] | None = None,
    pack: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BuiltPlugin:
    """Compile the TensorRT plugin on this machine, or copy it from the cache.

    Args:
        output: Library to write.
        tensorrt_root: Folder of TensorRT; by default TENSORRT_ROOT, then the usual places (headers.py).
        cuda_root: Folder of CUDA; by default CUDA_HOME, then the usual places.
        pack: Folder of the kernel pack to embed; by default the pack of the package.
        progress: Receives the steps.

    Raises:
        UsageError: A given folder does not exist.
        PluginError: Headers, compiler or CMake are missing, or the compiler failed.
        KernelError: The kernel pack is missing, damaged or stale.
        OutputError: The output cannot be written.
    """
    output, progress = Path(output), progress or Silent()
    if output.is_dir():
        raise OutputError(f"{output} is a folder", "name a file with -o")
    for folder in (tensorrt_root, cuda_root, pack):
        if folder is not None:
            check_input(Path(folder), "folder")
    headers = tensorrt_headers(None if tensorrt_root is None else Path(tensorrt_root))
    cuda = cuda_headers(None if cuda_root is None else Path(cuda_root))
    progress.stage(f"TensorRT {headers.version_text} ({headers.interface}): headers in {headers.folder}", None)
    progress.stage(f"CUDA headers in {cuda}", None)
    pack_folder = default_folder() if pack is None else Path(pack)
    kernels, tools = read_pack(pack_folder), find_tools()
    with staging_folder(output) as staging:  # before the work, so that an output that cannot be written costs no time
        kept = cache_folder(_digest(headers, cuda, kernels, tools)) / LIBRARY
        cached = kept.is_file()
        if not cached:
            progress.stage(f"compiling with {tools.compiler_version}", None)
            _compile(kept, headers, cuda, pack_folder, tools)
        shutil.copyfile(kept, staging / LIBRARY)
        move_into_place(staging / LIBRARY, output)
    size = output.stat().st_size
    return BuiltPlugin(output, headers, cuda, tools.compiler_version, kernels.architectures, size, cached)


def find_tools() -> Tools:
    """Find CMake and the C++ compiler (CXX, else c++).

    Raises:
        PluginError: One is missing; the hint says how to install it.
    """
    name = os.environ.get("CXX") or "c++"
    compiler = shutil.which(name)
    if compiler is None:
        raise PluginError(f"no C++ compiler: {name} is not on the PATH", "install one (apt install g++), or set CXX")
    cmake = find_cmake()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return Tools(cmake, compiler, next(iter(version.splitlines()), compiler))


def find_cmake() -> str:
    """Find CMake.

    Raises:
        PluginError: It is missing; the hint says how to install it.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise PluginError("cmake is not on the PATH", "install it: apt install cmake, or pip install cmake")
    return cmake


def run_cmake(
    cmake: str,
    folder: Path,
    headers: TensorRTHeaders,
    cuda: Path,
    pack_folder: Path,
    options: Sequence[str],
    target: str = TARGET,
) -> Path:
    """Compile one library of CMakeLists.txt.

    Args:
        cmake: Path of CMake.
        folder: Folder to compile in.
        headers: Headers of the TensorRT.
        cuda: Folder of the CUDA headers.
        pack_folder: Kernel pack to embed.
        options: Further arguments of CMake, which choose the compiler.
        target: Name of the library.

    Returns:
        The library.

    Raises:
        PluginError: CMake or the compiler failed.
    """
    _run(
        cmake,
        *("-S", str(_SOURCES), "-B", str(folder)),
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DACM_PACK={pack_folder.absolute()}",
        f"-DACM_TENSORRT_INCLUDE={headers.folder.absolute()}",
        f"-DACM_CUDA_INCLUDE={cuda.absolute()}",
        *options,
    )
    _run(cmake, "--build", str(folder), "--target", target, "--parallel", str(len(os.sched_getaffinity(0))))
    return folder / f"lib{target}.so"


def _digest(headers: TensorRTHeaders, cuda: Path, pack: Pack, tools: Tools) -> str:
    """SHA-256 over everything that decides what the library does."""
    digest = hashlib.sha256()
    for path in _source_paths():
        digest.update(f"{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes() + b"\0")
    digest.update(hashlib.sha256(pack.cubins).digest())
    what = (
        pack.source_digest,
        pack.triton,
        headers.version_text,
        str(headers.folder),
        str(cuda),
        tools.compiler,
        tools.compiler_version,
        os.environ.get("CXXFLAGS", ""),
    )
    digest.update("\0".join(what).encode())
    return digest.hexdigest()


def _source_paths() -> Iterator[Path]:
    for name in _SOURCE_FILES:
        yield _SOURCES / name
    for folder in _SOURCE_FOLDERS:
        yield from sorted(path for path in (_SOURCES / folder).iterdir() if path.is_file())


def _compile(library: Path, headers: TensorRTHeaders, cuda: Path, pack_folder: Path, tools: Tools) -> None:
    with staging_in_cache(library) as folder:
        options = [f"-DCMAKE_CXX_COMPILER={tools.compiler}"]
        move_into_place(run_cmake(tools.cmake, folder, headers, cuda, pack_folder, options), library)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if "rror" in line), max(len(lines) - 10, 0))
        raise PluginError(
            f"compiling the plugin failed ({Path(command[0]).name} returned {done.returncode}):\n"
            + "\n".join(lines[first : first + 10]),
            "to use other headers, name TensorRT in TENSORRT_ROOT and CUDA with --cuda-root",
        )
