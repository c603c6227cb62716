"""Memory, streams, events and graphs of the CUDA driver API, through ctypes: all that running an engine needs.

TensorRT's Python package neither allocates nor copies memory. The driver library is on every machine with a GPU, Jetson
included, and these functions have not changed since CUDA 11.4, whereas a Python package for CUDA has to match the
machine's CUDA version. ``cuda.h`` maps plain names to versioned ones such as ``cuMemAlloc_v2``, which are used here.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import CudaError

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY = "libcuda.so.1"
"""Library that :class:`Driver` loads; tests set another."""

_NON_BLOCKING_STREAM = 1
_CAPTURE_THREAD_LOCAL = 1
_OUT_OF_MEMORY = 2

_FUNCTIONS: dict[str, Sequence[type]] = {
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
        library: Name of the driver's library; by default :data:`LIBRARY`.

    Raises:
        CudaError: There is no driver, no GPU, or the driver is older than CUDA 11.4.
    """

    def __init__(self, library: str | None = None) -> None:
        try:
            self._library = ctypes.CDLL(library or LIBRARY)
        except OSError as error:
            raise CudaError(f"no CUDA driver was found: {error}", "acm-export doctor shows what is missing") from error
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise CudaError(f"the CUDA driver lacks {name}", "install a driver for CUDA 11.4 or later") from error
            function.argtypes, function.restype = arguments, c_int
        self.call("cuInit", 0)
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._device: c_int | None = device
        self.context = context
        self.enter()

    def enter(self) -> None:
        """Make the context current in this thread; every thread must do so before other calls."""
        self.call("cuCtxSetCurrent", self.context)

    def call(self, name: str, *arguments: object) -> None:
        """Call a driver function.

        Raises:
            CudaError: The function failed.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(code, byref(text))
            reason = (text.value or b"").decode(errors="replace") or f"error {code}"
            hint = "other processes may use the GPU's memory: see nvidia-smi" if code == _OUT_OF_MEMORY else None
            raise CudaError(f"the CUDA driver's {name} failed: {reason}", hint)

    def create(self, name: str, *arguments: object) -> int:
        """Call a function that creates a handle through its first argument; returns the handle."""
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        return handle.value or 0

    def release(self, name: str, *arguments: object) -> None:
        """Call a function that frees something; errors are ignored, because every call fails after a device error."""
        getattr(self._library, name)(*arguments)

    def close(self) -> None:
        """Release the context."""
        if self._device is not None:
            self.release("cuDevicePrimaryCtxRelease_v2", self._device)
            self._device = None


class Buffer:
    """Device memory with page-locked host memory of the same size.

    Args:
        driver: CUDA driver whose context is current.
        size: Size in bytes; for 0, one byte is allocated, because the driver rejects empty allocations.

    Raises:
        CudaError: The memory cannot be allocated.
    """

    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self.size = driver, max(size, 1)
        device = c_uint64()
        driver.call("cuMemAlloc_v2", byref(device), self.size)
        self.device = device.value
        try:
            self._host = driver.create("cuMemHostAlloc", self.size, 0)
        except CudaError:
            driver.release("cuMemFree_v2", self.device)
            raise

    def host(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """The host memory as an array, valid as long as the buffer."""
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self._host))
        used: int = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return memory[:used].view(dtype).reshape(shape)

    def upload(self, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first ``size`` bytes to the device."""
        if size:
            self._driver.call("cuMemcpyHtoDAsync_v2", self.device, self._host, size, stream.handle)

    def download(self, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first ``size`` bytes from the device."""
        if size:
            self._driver.call("cuMemcpyDtoHAsync_v2", self._host, self.device, size, stream.handle)

    def close(self) -> None:
        """Free device and host memory."""
        if self.device:
            self._driver.release("cuMemFree_v2", self.device)
            self._driver.release("cuMemFreeHost", self._host)
            self.device = 0


class Stream:
    """A CUDA stream with four events for timing."""

    MARKS = 4

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.handle = driver.create("cuStreamCreate", _NON_BLOCKING_STREAM)
        self._marks = [driver.create("cuEventCreate", 0) for _ in range(self.MARKS)]
        self._graph = 0

    def mark(self, index: int) -> None:
        """Record an event after the work enqueued so far."""
        self._driver.call("cuEventRecord", self._marks[index], self.handle)

    def between(self, first: int, second: int) -> float:
        """Milliseconds between two events that the stream has passed."""
        elapsed = c_float()
        self._driver.call("cuEventElapsedTime", byref(elapsed), self._marks[first], self._marks[second])
        return elapsed.value

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def begin_capture(self) -> None:
        """Start capturing enqueued work instead of running it."""
        self._driver.call("cuStreamBeginCapture_v2", self.handle, _CAPTURE_THREAD_LOCAL)

    def end_capture(self) -> None:
        """Instantiate the captured graph; it replaces an earlier one."""
        captured = c_void_p()
        self._driver.call("cuStreamEndCapture", self.handle, byref(captured))
        try:
            graph = self._driver.create("cuGraphInstantiateWithFlags", captured, 0)
        finally:
            self._driver.release("cuGraphDestroy", captured)
        self._drop_graph()
        self._graph = graph

    def drop_capture(self) -> None:
        """End a capture that failed."""
        captured = c_void_p()
        self._driver.release("cuStreamEndCapture", self.handle, byref(captured))
        if captured:
            self._driver.release("cuGraphDestroy", captured)

    def launch_graph(self) -> None:
        """Launch the captured graph."""
        self._driver.call("cuGraphLaunch", self._graph, self.handle)

    def close(self) -> None:
        """Wait for the stream, then free everything."""
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
