"""An execution context of an engine: buffers, a stream, and the times of each run."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import EngineError
from acm_export.engine.log import reasons
from acm_export.engine.profiles import format_shape
from acm_export.runtimes.cuda_driver import Buffer, Driver, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import tensorrt as trt

    from acm_export.data.batches import Arrays


@dataclass(frozen=True)
class DeviceTimes:
    """Times of one run in milliseconds.

    Args:
        compute_ms: Device time between the copies to the device and the copies back.
        enqueue_ms: Host time of the call that enqueues the work.
        transfer_ms: Device time of the copies in both directions.
    """

    compute_ms: float
    enqueue_ms: float
    transfer_ms: float


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; dynamic dimensions are -1."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    profile: tuple[tuple[int, ...], ...]
    """Smallest, optimal and largest shape of an input; empty for an output."""


@dataclass(frozen=True)
class EngineIO:
    """An engine's name, for errors, its inputs and outputs, and the errors that TensorRT has logged so far."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    errors: Sequence[str] = ()


class ExecutionContext:
    """Runs an engine on its own stream, one thread at a time. Created by :meth:`Engine.context`."""

    def __init__(
        self,
        io: EngineIO,
        context: trt.IExecutionContext,
        driver: Driver,
        release: Callable[[], None] | None,
        *,
        cuda_graph: bool,
    ) -> None:
        self._io, self._context, self._driver, self._graphs = io, context, driver, cuda_graph
        self._release = release
        self._stream = Stream(driver)
        self._buffers: dict[str, Buffer] = {}
        self._captured: tuple[tuple[int, ...], ...] | None = None
        """Input shapes that the CUDA graph was captured for."""

    def run(self, feeds: Arrays) -> tuple[Arrays, DeviceTimes]:
        """Run once, from host memory to host memory.

        Args:
            feeds: Arrays by input name.

        Returns:
            Copies of the outputs by name, and the times.

        Raises:
            EngineError: An input is missing or has a shape that the engine was not built for, or TensorRT fails.
            CudaError: The CUDA driver fails.
        """
        self._driver.enter()
        inputs, stream = self._io.inputs, self._stream
        arrays = [check_feed(tensor, feeds, self._io.name) for tensor in inputs]
        shapes = tuple(array.shape for array in arrays)
        for tensor, array in zip(inputs, arrays, strict=True):
            if not self._context.set_input_shape(tensor.name, array.shape):
                raise EngineError(f"TensorRT rejects the shape {format_shape(array.shape)} of {tensor.name}")
            self._bind(tensor.name, array.nbytes).host(array.shape, array.dtype)[...] = array
        results = [(t.name, tuple(self._context.get_tensor_shape(t.name)), t.dtype) for t in self._io.outputs]
        for name, shape, dtype in results:
            self._bind(name, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        sizes = {tensor.name: array.nbytes for tensor, array in zip(inputs, arrays, strict=True)}
        if self._graphs and self._captured != shapes:
            self._upload(sizes)  # the run before the capture needs valid inputs
            self._capture(shapes)
        stream.mark(0)
        self._upload(sizes)
        stream.mark(1)
        began = perf_counter()
        if self._graphs:
            stream.launch_graph()
        else:
            self._enqueue()
        enqueued = perf_counter()
        stream.mark(2)
        for name, shape, dtype in results:
            self._buffers[name].download(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, stream)
        stream.mark(3)
        stream.wait()
        outputs = {name: self._buffers[name].host(shape, dtype).copy() for name, shape, dtype in results}
        transfer = stream.between(0, 1) + stream.between(2, 3)
        return outputs, DeviceTimes(stream.between(1, 2), (enqueued - began) * 1e3, transfer)

    def close(self) -> None:
        """Free the buffers and the stream."""
        if self._context is None:
            return
        self._driver.release("cuCtxSetCurrent", self._driver.context)
        self._stream.close()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._context = None
        if self._release is not None:
            self._release()

    def _bind(self, name: str, size: int) -> Buffer:
        """The buffer of a tensor, grown if needed, with its address set in TensorRT."""
        held = self._buffers.get(name)
        if held is None or held.size < size:
            if held is not None:
                held.close()
            self._buffers.pop(name, None)
            self._buffers[name] = held = Buffer(self._driver, size)
            self._captured = None
            self._context.set_tensor_address(name, held.device)
        return held

    def _upload(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            self._buffers[name].upload(size, self._stream)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT could not run {self._io.name}{reasons(self._io.errors)}")

    def _capture(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Capture a CUDA graph, after one run: TensorRT prepares for new shapes then, which cannot be captured."""
        self._enqueue()
        self._stream.wait()
        self._stream.begin_capture()
        try:
            self._enqueue()
        except EngineError as error:
            self._stream.drop_capture()
            reason = f"TensorRT could not capture a run of {self._io.name} as a CUDA graph"
            raise EngineError(reason + reasons(self._io.errors), "run without --cuda-graph") from error
        self._stream.end_capture()
        self._captured = shapes


def check_feed(tensor: Tensor, feeds: Arrays, engine: str) -> np.ndarray:
    """The array for an input, in the input's dtype.

    Raises:
        EngineError: The array is missing, or has a shape that the engine was not built for.
    """
    if tensor.name not in feeds:
        raise EngineError(f"{engine} needs the input {tensor.name}, which is missing")
    array = np.asarray(feeds[tensor.name], tensor.dtype)
    fits = len(array.shape) == len(tensor.shape) and all(
        have == want for have, want in zip(array.shape, tensor.shape, strict=True) if want >= 0
    )
    if not fits:
        expected = format_shape(["?" if size < 0 else size for size in tensor.shape])
        raise EngineError(f"{engine}: {tensor.name} has shape {format_shape(array.shape)}; expected {expected}")
    low, high = (tensor.profile[0], tensor.profile[2]) if tensor.profile else (tensor.shape, tensor.shape)
    if not all(a <= b <= c for a, b, c in zip(low, array.shape, high, strict=True)):
        raise EngineError(
            f"{engine} was built for shapes of {tensor.name} from {format_shape(low)} to {format_shape(high)}, "
            f"but got {format_shape(array.shape)}",
            "rebuild it with --min-shapes and --max-shapes that include this shape",
        )
    return array
