"""The kernel pack, what compiles the plugin library, the library, and TensorRT's registry."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.doctor.finding import Finding
from acm_export.doctor.processes import ProbeError, ask
from acm_export.doctor.versions import numbers
from acm_export.errors import KernelError, PluginError
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION
from acm_export.plugins.kernels.pack import TABLE, Pack, default_folder, read_pack
from acm_export.plugins.tensorrt.build import LIBRARY, find_tools
from acm_export.plugins.tensorrt.headers import cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from acm_export.doctor.tensorrt import TensorRT

_MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of ELF files."""

_MACHINE_AT, _ELF_HEADER = 18, 20
_FIRST_THAT_LOADS, _FIRST_V3 = (8, 6), (10,)
"""TensorRT whose registry loads libraries, and the first that asks them for IPluginV3."""

_BUILD = "acm-export build-plugin"
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
    name, mend = (
        "TensorRT headers",
        "apt install libnvinfer-headers-dev, or acm-export build-plugin --tensorrt-root DIR",
    )
    try:
        found = tensorrt_headers()
    except PluginError as error:
        return Finding(name, "missing" if "no TensorRT headers" in str(error) else "wrong", str(error), mend)
    return Finding(name, "ok", f"{found.version_text} ({found.interface}) in {found.folder}")


def cuda_headers_found() -> Finding:
    """The CUDA runtime's headers, for build-plugin."""
    mend = "apt install cuda-cudart-dev-<version>, or acm-export build-plugin --cuda-root DIR"
    try:
        return Finding("CUDA headers", "ok", str(cuda_headers()))
    except PluginError as error:
        return Finding("CUDA headers", "missing", str(error), mend)


def library(path: Path | None) -> Finding:
    """The plugin library: a file for this processor that can be loaded and has TensorRT's entry points.

    Args:
        path: It; by default where build-plugin writes it, in the working folder.
    """
    name, file = "plugin library", path or Path(LIBRARY)
    mend = _BUILD  # with -o where nothing can be overwritten by it
    if file.exists() and not file.is_file():
        return Finding(name, "wrong", f"{file} is no regular file", mend)
    try:
        with file.open("rb") as stream:
            start = stream.read(_ELF_HEADER)
    except FileNotFoundError:
        return Finding(
            name,
            "missing",
            f"there is no {file}" + ("" if path else " in the working folder"),
            mend + (f" -o {path}" if path else ""),
        )
    except OSError as error:
        return Finding(name, "wrong", f"{file} cannot be read: {error.strerror}", mend)
    if reason := _not_for_this_machine(start):
        return Finding(name, "wrong", f"{file} {reason}", mend)
    reason, built_for = _examined(file)
    return Finding(name, "wrong", reason, mend) if reason else Finding(name, "ok", f"{file}, built for {built_for}")


def _examined(file: Path) -> tuple[str | None, str]:
    """Why a library is not our plugin, or None, and what it is built for."""
    try:
        told = ask("library", str(file.absolute())).value
    except ProbeError as error:
        return f"{file} cannot be loaded: {error}", ""
    if told["built_for"] is None:
        return f"{file} is not the plugin library, or one of an earlier acm-export", ""
    lacking = _entry_points(numbers(told["built_for"])) - set(told["entry_points"])
    reason = f"{file} lacks TensorRT's entry points: {', '.join(sorted(lacking))}" if lacking else None
    return reason, f"TensorRT {told['built_for']}"


def _entry_points(version: tuple[int, ...]) -> set[str]:
    """What the registry of a TensorRT calls in a library that it loads; before 8.6 it loads none."""
    if version < _FIRST_THAT_LOADS:
        return set()
    return {"setLoggerFinder", "getCreators" if version >= _FIRST_V3 else "getPluginCreators"}


def registry(path: Path | None, found: TensorRT, library_state: str) -> Finding:
    """TensorRT's own registry, with the library loaded into it.

    Args:
        path: As for :func:`library`.
        found: The TensorRT to load it into.
        library_state: What :func:`library` found.
    """
    name, file = "plugin registry", path or Path(LIBRARY)
    if library_state != "ok":
        return Finding(name, "missing", "no plugin library to load", _BUILD)
    if found.module is None or found.version is None:
        return Finding(name, "missing", "no TensorRT to load the library into", "pip install 'acm-export[gpu]'")
    try:
        answer = ask("registry", found.module, str(file.absolute()))
    except ProbeError as error:
        return Finding(name, "wrong", f"loading {file} into TensorRT {found.version}: {error}", _BUILD)
    wanted = {"version": PLUGIN_VERSION, "namespace": PLUGIN_NAMESPACE}
    if answer.value["creators"] == [wanted] and answer.value["loaded"]:
        return Finding(name, "ok", f"TensorRT {found.version} lists GatedLearners, version {PLUGIN_VERSION}, once")
    told = [line.strip() for line in answer.stderr.splitlines() if "GatedLearners" in line]
    reason = told[-1] if told else f"it lists {answer.value['creators']}, expected one {wanted}"
    return Finding(name, "wrong", f"TensorRT {found.version} does not take {file}: {reason}", _BUILD)


def _not_for_this_machine(start: bytes) -> str | None:
    if not start.startswith(b"\x7fELF") or len(start) < _ELF_HEADER:
        return "is no shared library"
    machine, own = int.from_bytes(start[_MACHINE_AT:_ELF_HEADER], "little"), platform.machine()
    if own in _MACHINES and machine != _MACHINES[own]:
        theirs = next((name for name, number in _MACHINES.items() if number == machine), f"processor type {machine}")
        return f"is for {theirs}, this machine is {own}"
    return None
