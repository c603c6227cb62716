"""Compile the CUDA sources of plugins/kernels/cuda with NVRTC, NVIDIA's run-time compiler. No GPU is needed.

NVRTC comes as the Python package ``nvidia-cuda-nvrtc-cu12``. It must be version 12: drivers for CUDA 12 reject the ELF
files of ABI version 8 that version 13 emits for sm_90.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIBRARY = "libnvrtc.so.12"
_OPTIONS = ("--std=c++17", "-default-device")


def compile_cuda(source: str, arch: str, constants: Mapping[str, int | str]) -> bytes:
    """Compile one file.

    Args:
        source: Name of a file in plugins/kernels/cuda.
        arch: GPU architecture, as in ``sm_90a``.
        constants: Macros to define.

    Returns:
        The cubin.

    Raises:
        MissingDependencyError: NVRTC 12 is not installed.
        KernelError: The source does not compile; the message has the compiler's log.
    """
    nvrtc, folder = _nvrtc(), resources.files("acm_export.plugins.kernels").joinpath("cuda")
    headers = sorted((file for file in folder.iterdir() if file.name.endswith(".cuh")), key=lambda file: file.name)
    program = c_void_p()
    _check(
        nvrtc.nvrtcCreateProgram(
            byref(program),
            folder.joinpath(source).read_bytes(),
            source.encode(),
            len(headers),
            _strings([file.read_bytes() for file in headers]),
            _strings([file.name.encode() for file in headers]),
        ),
        "nvrtcCreateProgram",
    )
    try:
        options = [f"--gpu-architecture={arch}", *_OPTIONS, *(f"-D{name}={value}" for name, value in constants.items())]
        failed = nvrtc.nvrtcCompileProgram(program, len(options), _strings([option.encode() for option in options]))
        if failed:
            log = _output(nvrtc, program, "nvrtcGetProgramLog").rstrip(b"\0\n").decode(errors="replace")
            raise KernelError(f"{source} does not compile for {arch}: {log}")
        return _output(nvrtc, program, "nvrtcGetCUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(byref(program))


def version() -> str:
    """Version of NVRTC, as in ``12.9``."""
    major, minor = c_int(), c_int()
    _check(_nvrtc().nvrtcVersion(byref(major), byref(minor)), "nvrtcVersion")
    return f"{major.value}.{minor.value}"


@cache
def _nvrtc() -> ctypes.CDLL:
    package = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") else None
    installed = [Path(place) / "lib" / LIBRARY for place in package.submodule_search_locations or ()] if package else []
    library = next((str(path) for path in installed if path.is_file()), LIBRARY)
    with suppress(OSError):
        return ctypes.CDLL(library)
    raise MissingDependencyError(
        f"{LIBRARY}, NVIDIA's run-time compiler, is not installed", "pip install 'nvidia-cuda-nvrtc-cu12>=12.8'"
    )


def _strings(values: Sequence[bytes]) -> ctypes.Array[c_char_p]:
    return (c_char_p * len(values))(*values)


def _output(nvrtc: ctypes.CDLL, program: c_void_p, name: str) -> bytes:
    size = c_size_t()
    _check(getattr(nvrtc, f"{name}Size")(program, byref(size)), f"{name}Size")
    content = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, name)(program, content), name)
    return content.raw


def _check(code: int, name: str) -> None:
    if code:
        raise KernelError(f"{name} failed with code {code}")
