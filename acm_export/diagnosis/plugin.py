"""Checks of the kernel pack, the tools and headers for the plugin library, and TensorRT's registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError, PluginError
from acm_export.base.optional import install_command
from acm_export.machine.finding import Finding
from acm_export.machine.plugin_library import BUILD
from acm_export.machine.processes import ProbeError, probe
from acm_export.op.quantized_signature import OPERATORS
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION
from acm_export.plugins.kernels.pack import TABLE, Pack, default_folder, read_pack
from acm_export.plugins.tensorrt.build import LIBRARY, find_tools
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from acm_export.machine.tensorrt import TensorRT

_PACK = "python -m acm_export.plugins.kernels.compile   (needs triton, no GPU)"


def pack() -> tuple[Finding, Pack | None]:
    """Check that the kernel pack is there, is complete, and was compiled from the installed sources."""
    name = "kernel pack"
    try:
        held = read_pack()
    except KernelError as error:
        there = (default_folder() / TABLE).exists()
        return Finding(name, "wrong" if there else "missing", str(error), _PACK), None
    text = f"{len(held.kernels)} kernels by Triton {held.triton} for {', '.join(held.architectures)}"
    return Finding(name, "ok", text), held


def compiler() -> Finding:
    """Check the C++ compiler and CMake, which build-plugin needs."""
    try:
        tools = find_tools()
    except PluginError as error:
        return Finding("compiler", "missing", str(error), "apt install g++ cmake")
    return Finding("compiler", "ok", f"{tools.compiler_version}; {tools.cmake}")


def headers() -> Finding:
    """Check TensorRT's headers, which build-plugin needs."""
    name = "TensorRT headers"
    fix = "apt install libnvinfer-headers-dev, or acm-export build-plugin --tensorrt-root DIR"
    try:
        found = tensorrt_headers()
    except PluginError as error:
        return Finding(name, "missing" if "no TensorRT headers" in str(error) else "wrong", str(error), fix)
    return Finding(name, "ok", f"{found.version_text} ({found.interface}) in {found.folder}")


def cuda_headers_found() -> Finding:
    """Check the headers of the CUDA runtime, which build-plugin needs."""
    fix = "apt install cuda-cudart-dev-<version>, or acm-export build-plugin --cuda-root DIR"
    try:
        return Finding("CUDA headers", "ok", str(cuda_headers()))
    except PluginError as error:
        return Finding("CUDA headers", "missing", str(error), fix)


def registry(path: Path | None, found: TensorRT, library: Finding) -> Finding:
    """Check that TensorRT's registry lists the plugins after loading the library.

    Args:
        path: Path of the plugin library; by default the one in the working folder.
        found: The installed TensorRT.
        library: Finding about the library itself.
    """
    name, file = "plugin registry", path or Path(LIBRARY)
    if library.state != "ok":
        return Finding(name, "missing", "no plugin library to load", library.fix)
    if found.module is None or found.version is None:
        return Finding(name, "missing", "no TensorRT to load the library into", install_command("gpu"))
    try:
        output = probe("registry", found.module, str(file.absolute()), *OPERATORS)
    except ProbeError as error:
        return Finding(name, "wrong", f"loading {file} into TensorRT {found.version}: {error}", BUILD)
    wanted = [{"name": op, "version": PLUGIN_VERSION, "namespace": PLUGIN_NAMESPACE} for op in sorted(OPERATORS)]
    listed = sorted(output.value["creators"], key=lambda creator: creator["name"])
    if listed == wanted and output.value["loaded"]:
        names = ", ".join(OPERATORS)
        return Finding(name, "ok", f"TensorRT {found.version} lists {names}, version {PLUGIN_VERSION}, once each")
    logged = [line.strip() for line in output.stderr.splitlines() if "GatedLearners" in line]
    if logged:
        reason = logged[-1]
    elif not output.value["loaded"]:
        reason = "load_library returned no handle"
    else:
        reason = f"it lists {listed}; expected {wanted}"
    return Finding(name, "wrong", f"TensorRT {found.version} rejects {file}: {reason}", BUILD)
