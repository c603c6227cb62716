"""Compile the plugin's test libraries, if the tools are found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.headers import TensorRTHeaders, cuda_headers, tensorrt_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugin_cases import Case

SOURCES = Path(__file__).parents[2] / "plugins" / "tensorrt"
TOOLS = ("cmake", os.environ.get("CXX", "c++"))


def need_tools() -> None:
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"compiling the plugin needs {tool}, which is not installed")


def header_sets() -> list[TensorRTHeaders]:
    """One for each folder in TENSORRT_ROOT (separated by ``:``), else those that the machine has."""
    roots = [Path(root) for root in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if root]
    if roots:
        return [tensorrt_headers(root) for root in roots]
    try:
        return [tensorrt_headers()]
    except PluginError:
        return []


def each_header_set() -> pytest.MarkDecorator:
    """Run a test once for each set of TensorRT headers; skip it if there are none."""
    found = header_sets()
    reason = "no TensorRT headers found; set TENSORRT_ROOT to one or more folders, separated by ':'"
    none = pytest.param(None, id="no-headers", marks=pytest.mark.skip(reason=reason))
    sets = [pytest.param(headers, id=f"trt{headers.version_text}") for headers in found] or [none]
    return pytest.mark.parametrize("headers", sets, scope="session")


def each_operator(layers: Sequence[Case]) -> pytest.MarkDecorator:
    """Run a test with one layer of each operator."""
    return pytest.mark.parametrize("case", layers, ids=[case.operator for case in layers])


def each_tensorrt() -> pytest.MarkDecorator:
    """Run a test with ``python``, once for each interpreter that has a TensorRT.

    Which: those in ACM_TENSORRT_PYTHON (separated by ``:``), each with one of the packages tensorrt_lean,
    tensorrt_lean_bindings and tensorrt; else this one, if it has one.
    """
    packages = ("tensorrt_lean", "tensorrt_lean_bindings", "tensorrt")
    named = [python for python in os.environ.get("ACM_TENSORRT_PYTHON", "").split(os.pathsep) if python]
    found = named or ([sys.executable] if any(find_spec(package) for package in packages) else [])
    skip = pytest.mark.skip(reason="no Python with a TensorRT; set ACM_TENSORRT_PYTHON")
    return pytest.mark.parametrize("python", found or [pytest.param("", marks=skip)])


def build(target: str, folder: Path, pack: Path, headers: TensorRTHeaders | None = None, *, sanitize: str = "") -> Path:
    """Compile one library of plugins/tensorrt.

    Args:
        target: As CMakeLists.txt names it.
        folder: To build in.
        pack: Kernel pack to embed.
        headers: Of TensorRT; none are needed for the core alone.
        sanitize: Sanitizers, such as ``address,undefined``.
    """
    need_tools()
    options = [
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DACM_PACK={pack}",
        "-DACM_HARNESS=ON",
        f"-DACM_PLUGIN={'ON' if headers else 'OFF'}",
        f"-DACM_SANITIZE={sanitize}",
    ]
    if headers:
        options += [f"-DACM_TENSORRT_INCLUDE={headers.folder}", f"-DACM_CUDA_INCLUDE={cuda_headers()}"]
    _run("cmake", "-S", str(SOURCES), "-B", str(folder), *options)
    _run("cmake", "--build", str(folder), "--target", target, "--parallel", "2")
    return folder / f"lib{target}.so"


def compile_fake_driver(folder: Path, source: str = "plugin_fake_cuda.cpp", *macros: str) -> Path:
    """Compile a fake CUDA driver."""
    need_tools()
    library = folder / "libfake_cuda.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-D{macro}" for macro in macros]
    _run(TOOLS[1], *flags, str(Path(__file__).parent / source), "-o", str(library))
    return library


def compile_fake_registry(folder: Path, headers: TensorRTHeaders) -> Path:
    """Compile a double of TensorRT 8's library, with the registry that these headers describe."""
    need_tools()
    folder.mkdir()
    library = folder / "libnvinfer.so.8"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-isystem{headers.folder}", f"-isystem{cuda_headers()}"]
    _run(TOOLS[1], *flags, str(Path(__file__).parent / "plugin_fake_registry.cpp"), "-o", str(library))
    return library


def compile_fake_plugin(folder: Path, built_for: str = "10.3.0") -> Path:
    """Compile a library that looks like the plugin, and does nothing."""
    need_tools()
    source, library = folder / "plugin.cpp", folder / f"plugin-{built_for}.so"
    entry_points = "void getCreators() {} void getPluginCreators() {} void setLoggerFinder() {}"
    source.write_text(
        f'extern "C" {{ {entry_points} const char* acm_built_for_tensorrt() {{ return "{built_for}"; }} }}'
    )
    _run(TOOLS[1], "-shared", "-fPIC", str(source), "-o", str(library))
    return library


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
