"""One execution context of an engine: memory, a stream, and the times of every run."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import EngineError
from acm_export.engine.profiles import format_shape
from acm_export.runtimes.cuda_driver import Buffer, Driver, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class DeviceTimes:
    """Of one run, in milliseconds.

    Args:
        compute_ms: On the device, from the end of the copies to it to the begin of those from it.
        enqueue_ms: On the host, for the call that puts the work into the stream.
        transfer_ms: On the device, for the copies in both directions.
    """

    compute_ms: float
    enqueue_ms: float
    transfer_ms: float


@dataclass(frozen=True)
class Tensor:
    """An input or output as the engine has it; -1 stands for dynamic dimensions."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    profile: tuple[tuple[int, ...], ...]
    """Smallest, best and largest shape of an input; empty for an output."""


@dataclass(frozen=True)
class EngineIO:
    """An engine's name, for errors, and its inputs and outputs."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class ExecutionContext:
    """Runs an engine; one thread at a time, each context its own stream. Made by :meth:`Engine.context`."""

    def __init__(
        self, io: EngineIO, context: Any, driver: Driver, give_back: Callable[[], None], *, cuda_graph: bool
    ) -> None:
        self._io, self._context, self._driver, self._graphs = io, context, driver, cuda_graph
        self._give_back = give_back
        self._stream = Stream(driver)
        self._buffers: dict[str, Buffer] = {}
        self._captured: tuple[tuple[int, ...], ...] | None = None
        """Input shapes that the graph was captured for."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Arrays, DeviceTimes]:
        """Run once, from host memory to host memory.

        Args:
            feeds: Arrays by input name.

        Returns:
            Outputs by name, as copies, and times.

        Raises:
            EngineError: An input is missing or of a shape that the engine was not built for, or TensorRT fails.
            CudaError: The driver fails.
        """
        self._driver.enter()
        inputs, stream = self._io.inputs, self._stream
        arrays = [check_feed(tensor, feeds, self._io.name) for tensor in inputs]
        shapes = tuple(array.shape for array in arrays)
        for tensor, array in zip(inputs, arrays, strict=True):
            if not self._context.set_input_shape(tensor.name, array.shape):
                raise EngineError(f"TensorRT refuses the shape {format_shape(array.shape)} of {tensor.name}")
            self._bind(tensor.name, array.nbytes).host(array.shape, array.dtype)[...] = array
        results = [(t.name, tuple(self._context.get_tensor_shape(t.name)), t.dtype) for t in self._io.outputs]
        for name, shape, dtype in results:
            self._bind(name, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        sizes = {tensor.name: array.nbytes for tensor, array in zip(inputs, arrays, strict=True)}
        if self._graphs and self._captured != shapes:
            self._upload(sizes)  # what is run before the capture must not be run on memory that nobody wrote
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
        """Free its memory and its stream."""
        if self._context is None:
            return
        self._driver.release("cuCtxSetCurrent", self._driver.context)
        self._stream.close()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._context = None
        self._give_back()

    def _bind(self, name: str, size: int) -> Buffer:
        """The buffer of a tensor, made larger where it must be, with its address told to TensorRT."""
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
            raise EngineError(f"TensorRT could not run {self._io.name}; its log above says why")

    def _capture(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Capture a graph; the run before it lets TensorRT do what new shapes ask for, which cannot be captured."""
        self._enqueue()
        self._stream.wait()
        self._stream.begin_capture()
        try:
            self._enqueue()
        except EngineError as error:
            self._stream.drop_capture()
            reason = f"TensorRT could not capture a run of {self._io.name} as a CUDA graph; its log above says why"
            raise EngineError(reason, "run without --cuda-graph") from error
        self._stream.end_capture()
        self._captured = shapes


def check_feed(tensor: Tensor, feeds: Mapping[str, np.ndarray[Any, Any]], engine: str) -> np.ndarray[Any, Any]:
    """The array for an input, in its dtype.

    Raises:
        EngineError: It is missing, or of a shape that the engine was not built for.
    """
    if tensor.name not in feeds:
        raise EngineError(f"{engine} takes {tensor.name}, which was not given")
    array = np.asarray(feeds[tensor.name], tensor.dtype)
    fits = len(array.shape) == len(tensor.shape) and all(
        have == want for have, want in zip(array.shape, tensor.shape, strict=True) if want >= 0
    )
    if not fits:
        wanted = format_shape(["?" if size < 0 else size for size in tensor.shape])
        raise EngineError(f"{engine}: {tensor.name} has the shape {format_shape(array.shape)}, expected {wanted}")
    low, high = (tensor.profile[0], tensor.profile[2]) if tensor.profile else (tensor.shape, tensor.shape)
    if not all(a <= b <= c for a, b, c in zip(low, array.shape, high, strict=True)):
        raise EngineError(
            f"{engine} was built for shapes of {tensor.name} from {format_shape(low)} to {format_shape(high)}; "
            f"{format_shape(array.shape)} lies outside",
            "build it with --min-shapes and --max-shapes that hold it",
        )
    return array
