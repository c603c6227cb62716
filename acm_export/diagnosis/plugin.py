"""The kernel pack, what compiles the plugin library, the library, and TensorRT's registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError, PluginError
from acm_export.machine.finding import Finding
from acm_export.machine.plugin_library import BUILD
from acm_export.machine.processes import ProbeError, ask
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION
from acm_export.plugins.kernels.pack import TABLE, Pack, default_folder, read_pack
from acm_export.plugins.tensorrt.build import LIBRARY, find_tools
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from acm_export.machine.tensorrt import TensorRT

_PACK = "python -m acm_export.plugins.kernels.compile   (needs triton, no GPU)"


def pack() -> tuple[Finding, Pack | None]:
    """The kernel pack: there, whole, and made from the installed sources."""
    name = "kernel pack"
    try:
        held = read_pack()
    except KernelError as error:
        there = (default_folder() / TABLE).exists()
        return Finding(name, "wrong" if there else "missing", str(error), _PACK), None
    text = f"{len(held.kernels)} kernels by Triton {held.triton} for {', '.join(held.architectures)}"
    return Finding(name, "ok", text), held


def compiler() -> Finding:
    """A C++ compiler and CMake, for build-plugin."""
    try:
        tools = find_tools()
    except PluginError as error:
        return Finding("compiler", "missing", str(error), "apt install g++ cmake")
    return Finding("compiler", "ok", f"{tools.compiler_version}; {tools.cmake}")


def headers() -> Finding:
    """TensorRT's headers, for build-plugin."""
    name, fix = (
        "TensorRT headers",
        "apt install libnvinfer-headers-dev, or acm-export build-plugin --tensorrt-root DIR",
    )
    try:
        found = tensorrt_headers()
    except PluginError as error:
        return Finding(name, "missing" if "no TensorRT headers" in str(error) else "wrong", str(error), fix)
    return Finding(name, "ok", f"{found.version_text} ({found.interface}) in {found.folder}")


def cuda_headers_found() -> Finding:
    """The CUDA runtime's headers, for build-plugin."""
    fix = "apt install cuda-cudart-dev-<version>, or acm-export build-plugin --cuda-root DIR"
    try:
        return Finding("CUDA headers", "ok", str(cuda_headers()))
    except PluginError as error:
        return Finding("CUDA headers", "missing", str(error), fix)


def registry(path: Path | None, found: TensorRT, library_state: str) -> Finding:
    """TensorRT's own registry, with the library loaded into it.

    Args:
        path: As for :func:`library`.
        found: The TensorRT to load it into.
        library_state: What :func:`library` found.
    """
    name, file = "plugin registry", path or Path(LIBRARY)
    if library_state != "ok":
        return Finding(name, "missing", "no plugin library to load", BUILD)
    if found.module is None or found.version is None:
        return Finding(name, "missing", "no TensorRT to load the library into", "pip install 'acm-export[gpu]'")
    try:
        answer = ask("registry", found.module, str(file.absolute()))
    except ProbeError as error:
        return Finding(name, "wrong", f"loading {file} into TensorRT {found.version}: {error}", BUILD)
    wanted = {"version": PLUGIN_VERSION, "namespace": PLUGIN_NAMESPACE}
    if answer.value["creators"] == [wanted] and answer.value["loaded"]:
        return Finding(name, "ok", f"TensorRT {found.version} lists GatedLearners, version {PLUGIN_VERSION}, once")
    told = [line.strip() for line in answer.stderr.splitlines() if "GatedLearners" in line]
    reason = told[-1] if told else f"it lists {answer.value['creators']}, expected one {wanted}"
    return Finding(name, "wrong", f"TensorRT {found.version} does not take {file}: {reason}", BUILD)
