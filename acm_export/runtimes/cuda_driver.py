"""The CUDA driver's own functions, through ctypes: all that running an engine needs of CUDA.

TensorRT's Python package allocates nothing and copies nothing. The driver library is on every machine that has a GPU,
Jetson too, and its functions have kept their meaning since CUDA 11.4; a package for it would have to match the
machine's CUDA. Names with a version (``cuMemAlloc_v2``) are those that ``cuda.h`` maps the plain ones to.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import CudaError

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY = "libcuda.so.1"
_NON_BLOCKING_STREAM = 1
_CAPTURE_THREAD_LOCAL = 1
_OUT_OF_MEMORY = 2

_FUNCTIONS: dict[str, Sequence[Any]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}


class Driver:
    """The first GPU's primary context, which TensorRT and PyTorch use too.

    Args:
        library: Of the driver; tests put another in its place.

    Raises:
        CudaError: There is no driver, no GPU, or the driver is older than CUDA 11.4.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise CudaError(f"there is no CUDA driver: {error}", "acm-export doctor says what is missing") from error
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise CudaError(f"the CUDA driver has no {name}", "install a driver for CUDA 11.4 or later") from error
            function.argtypes, function.restype = arguments, c_int
        self.call("cuInit", 0)
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._device: c_int | None = device
        self.context = context
        self.enter()

    def enter(self) -> None:
        """Make the context current in this thread; every thread has to before it does anything else."""
        self.call("cuCtxSetCurrent", self.context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            CudaError: It failed.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(code, byref(text))
            reason = (text.value or b"").decode(errors="replace") or f"error {code}"
            hint = "another process may hold the GPU's memory: nvidia-smi" if code == _OUT_OF_MEMORY else None
            raise CudaError(f"the CUDA driver's {name} failed: {reason}", hint)

    def made(self, name: str, *arguments: Any) -> int:
        """Call a function that writes a handle through its first argument; returns the handle."""
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        return handle.value or 0

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that gives something back; after an error of the device all fail, and nothing helps."""
        getattr(self._library, name)(*arguments)

    def close(self) -> None:
        """Give the context back."""
        if self._device is not None:
            self.release("cuDevicePrimaryCtxRelease_v2", self._device)
            self._device = None


class Buffer:
    """Device memory with page-locked host memory of the same size beside it.

    Args:
        driver: Whose context is current.
        size: Bytes; one at least is reserved, since zero is an error to the driver.

    Raises:
        CudaError: There is not so much memory.
    """

    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self.size = driver, max(size, 1)
        device = c_uint64()
        driver.call("cuMemAlloc_v2", byref(device), self.size)
        self.device = device.value
        try:
            self._host = driver.made("cuMemHostAlloc", self.size, 0)
        except CudaError:
            driver.release("cuMemFree_v2", self.device)
            raise

    def host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """The host memory as an array; it lives as long as the buffer."""
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self._host))
        used: int = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return memory[:used].view(dtype).reshape(shape)

    def upload(self, size: int, stream: Stream) -> None:
        """Copy the first bytes to the device, in the stream."""
        if size:
            self._driver.call("cuMemcpyHtoDAsync_v2", self.device, self._host, size, stream.handle)

    def download(self, size: int, stream: Stream) -> None:
        """Copy the first bytes from the device, in the stream."""
        if size:
            self._driver.call("cuMemcpyDtoHAsync_v2", self._host, self.device, size, stream.handle)

    def close(self) -> None:
        """Free both."""
        if self.device:
            self._driver.release("cuMemFree_v2", self.device)
            self._driver.release("cuMemFreeHost", self._host)
            self.device = 0


class Stream:
    """A stream with four marks in it, between which times are taken."""

    MARKS = 4

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.handle = driver.made("cuStreamCreate", _NON_BLOCKING_STREAM)
        self._marks = [driver.made("cuEventCreate", 0) for _ in range(self.MARKS)]
        self._graph = 0

    def mark(self, index: int) -> None:
        """Put a mark behind everything that is in the stream."""
        self._driver.call("cuEventRecord", self._marks[index], self.handle)

    def between(self, first: int, second: int) -> float:
        """Milliseconds from one mark to the other; the stream must have passed both."""
        elapsed = c_float()
        self._driver.call("cuEventElapsedTime", byref(elapsed), self._marks[first], self._marks[second])
        return elapsed.value

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def begin_capture(self) -> None:
        """Record what is put into the stream from now on, in place of doing it."""
        self._driver.call("cuStreamBeginCapture_v2", self.handle, _CAPTURE_THREAD_LOCAL)

    def end_capture(self) -> None:
        """Keep what was recorded as the graph of this stream, in place of an earlier one."""
        recorded = c_void_p()
        self._driver.call("cuStreamEndCapture", self.handle, byref(recorded))
        try:
            graph = self._driver.made("cuGraphInstantiateWithFlags", recorded, 0)
        finally:
            self._driver.release("cuGraphDestroy", recorded)
        self._drop_graph()
        self._graph = graph

    def drop_capture(self) -> None:
        """End a recording that went wrong."""
        recorded = c_void_p()
        self._driver.release("cuStreamEndCapture", self.handle, byref(recorded))
        if recorded:
            self._driver.release("cuGraphDestroy", recorded)

    def launch_graph(self) -> None:
        """Do what was recorded."""
        self._driver.call("cuGraphLaunch", self._graph, self.handle)

    def close(self) -> None:
        """Wait, then give everything back."""
        if not self.handle:
            return
        self._driver.release("cuStreamSynchronize", self.handle)
        self._drop_graph()
        for mark in self._marks:
            self._driver.release("cuEventDestroy_v2", mark)
        self._driver.release("cuStreamDestroy_v2", self.handle)
        self.handle = 0

    def _drop_graph(self) -> None:
        if self._graph:
            self._driver.release("cuGraphExecDestroy", self._graph)
            self._graph = 0
