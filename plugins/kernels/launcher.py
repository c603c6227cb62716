"""Load kernels, encode tensor maps and launch in the current CUDA context, with the driver API through ctypes.

The C++ plugin does the same in plugins/tensorrt/core/driver.cpp.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, addressof, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p, pointer
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import KernelError

if TYPE_CHECKING:
    from acm_export.plugins.kernels.hopper import TensorMap

LIBRARY = "libcuda.so.1"

# Values of the driver's enumerations.
_MAX_DYNAMIC_SHARED_BYTES = 8
_MAP_DTYPES = {torch.float16: 6, torch.bfloat16: 9}
_SWIZZLE_128_BYTES, _PROMOTE_TO_256_BYTES = 3, 3
_PROGRAMMATIC_STREAM_SERIALIZATION = 6

_MAP_BYTES, _MAP_ALIGNMENT = 128, 64

_EARLY_LAUNCH_FROM = 12030
"""First driver version (CUDA 12.3) that can capture an early launch in a graph."""


class LaunchAttribute(Structure):
    """``CUlaunchAttribute`` with a value that is one integer."""

    _fields_ = (("id", c_int), ("padding", c_uint8 * 4), ("value", c_int), ("unused", c_uint8 * 60))


class LaunchConfig(Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3),
        ("shared_bytes", c_uint32),
        ("stream", c_void_p),
        ("attributes", POINTER(LaunchAttribute)),
        ("num_attributes", c_uint32),
    )


_EARLY = LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
"""The kernel may start before the previous one has ended; it waits for the results itself (device.cuh)."""


class EncodedMap:
    """An encoded tensor map, at the alignment that the driver requires."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGNMENT)
        self.address = -(-addressof(self._memory) // _MAP_ALIGNMENT) * _MAP_ALIGNMENT


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Args:
        function: The loaded kernel.
        config: Grid, block, shared memory and stream.
        arguments: Address of each argument.
    """

    function: c_void_p
    config: LaunchConfig
    arguments: ctypes.Array[c_void_p]


class Launcher:
    """Loads and launches kernels.

    Args:
        library: Name of the driver's library; tests pass a double.

    Raises:
        KernelError: The driver was not found, or is older than CUDA 12.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise KernelError(
                f"no CUDA driver was found: {error}", "acm-export doctor shows what is missing"
            ) from error
        if not hasattr(self._cuda, "cuTensorMapEncodeTiled"):
            raise KernelError("the CUDA driver has no cuTensorMapEncodeTiled", "install a driver for CUDA 12 or later")
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        self._launches_early = version.value >= _EARLY_LAUNCH_FROM

    def load(self, cubin: bytes, symbol: str, shared_bytes: int) -> c_void_p:
        """Load a kernel and allow it this much dynamic shared memory."""
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadData", byref(module), c_char_p(cubin))
        self._call("cuModuleGetFunction", byref(function), module, c_char_p(symbol.encode()))
        self._call("cuFuncSetAttribute", function, c_int(_MAX_DYNAMIC_SHARED_BYTES), c_int(shared_bytes))
        return function

    def encode(self, tensor_map: TensorMap, address: int, dtype: torch.dtype) -> EncodedMap:
        """Encode the map of a tensor at an address."""
        encoded = EncodedMap()
        self._call(
            "cuTensorMapEncodeTiled",
            c_void_p(encoded.address),
            c_int(_MAP_DTYPES[dtype]),
            c_uint32(3),
            c_void_p(address),
            (c_uint64 * 3)(*tensor_map.dims),
            (c_uint64 * 2)(*tensor_map.strides),
            (c_uint32 * 3)(*tensor_map.box),
            (c_uint32 * 3)(1, 1, 1),
            c_int(0),
            c_int(_SWIZZLE_128_BYTES),
            c_int(_PROMOTE_TO_256_BYTES),
            c_int(0),
        )
        return encoded

    def config(self, grid: tuple[int, int], threads: int, shared_bytes: int, *, early: bool) -> LaunchConfig:
        """Configuration of a launch; ``early`` lets it start before the previous kernel ends, if the driver can."""
        attributes = int(early and self._launches_early)
        return LaunchConfig((*grid, 1), (threads, 1, 1), shared_bytes, None, pointer(_EARLY), attributes)

    def launch(self, launch: Launch, stream: int) -> None:
        """Launch a kernel on a stream."""
        launch.config.stream = stream
        self._call("cuLaunchKernelEx", byref(launch.config), launch.function, launch.arguments, None)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = c_char_p()
            self._cuda.cuGetErrorName(code, byref(text))
            reason = (text.value or b"").decode(errors="replace") or f"error {code}"
            raise KernelError(f"the CUDA driver's {name} failed: {reason}")
