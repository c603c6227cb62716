"""A module in PyTorch, run from arrays in host memory: on the CPU, or on a GPU with its times told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import cuda

from acm_export.modules import acm_layers
from acm_export.modules.wrapper import PREFIX
from acm_export.timing.runtime import UNTOLD, Times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from acm_export.data.batches import Arrays, GraphInput

_WARM_UP_RUNS = 3
"""Before a capture: libraries allocate and choose in their first runs, which a graph must not hold."""


class PytorchRuntime:
    """A module and its dials; thresholds are buffers of the module, written where they change.

    Args:
        module: Takes tensors in the order of the inputs and returns a tuple of tensors, as
            :class:`acm_export.modules.wrapper.Exportable` does; is moved to the device.
        inputs: Of the module.
        device: Where it runs.
        cuda_graph: Whether its contexts launch graphs.
    """

    def __init__(
        self, module: nn.Module, inputs: tuple[GraphInput, ...], device: torch.device, *, cuda_graph: bool = False
    ) -> None:
        self.inputs, self.device, self._graph = inputs, device, cuda_graph
        self.module: nn.Module = module.to(device).eval()
        self._thresholds = {f"{name.removeprefix(PREFIX)}.thresholds": layer for name, layer in acm_layers(self.module)}
        self._given: Arrays = {}

    def context(self) -> CpuContext | CudaContext:
        """One more context; on a GPU with a stream and buffers of its own."""
        return CudaContext(self, cuda_graph=self._graph) if self.device.type == "cuda" else CpuContext(self)

    def dial(self, feeds: Arrays) -> None:
        """Write the thresholds among the feeds, where they are other arrays than before."""
        changed = [name for name in self._thresholds if name in feeds and self._given.get(name) is not feeds[name]]
        for name in changed:
            self._thresholds[name].thresholds.copy_(torch.tensor(feeds[name]))
            self._given[name] = feeds[name]
        if changed and self.device.type == "cuda":
            cuda.synchronize()  # contexts run in streams of their own

    def close(self) -> None:
        """Drop the module."""
        self.module, self._thresholds = torch.nn.Identity(), {}


class CpuContext:
    """Runs a module on the CPU, where nothing but the host's time can be told.

    Args:
        runtime: With the module.
    """

    def __init__(self, runtime: PytorchRuntime) -> None:
        self._runtime = runtime

    def run(self, feeds: Arrays) -> Times:
        """Run once."""
        runtime = self._runtime
        with torch.inference_mode():
            runtime.dial(feeds)
            runtime.module(*(torch.from_numpy(feeds[value.name]) for value in runtime.inputs))
        return UNTOLD

    def close(self) -> None:
        """Nothing to give back."""


@dataclass
class Buffers:
    """Memory for inputs of given shapes, and their graph where there is one.

    Args:
        shapes: Of the inputs.
        pinned: Inputs in page-locked host memory, from which copies do not wait for the host.
        inputs: On the device, at addresses that a graph knows.
        outputs: Of the graph on the device.
        graph: Captured with these inputs, or None.
        results: Outputs in page-locked host memory; none before the first run.
    """

    shapes: tuple[tuple[int, ...], ...]
    pinned: list[torch.Tensor]
    inputs: list[torch.Tensor]
    outputs: tuple[torch.Tensor, ...] = ()
    graph: Any = None
    results: list[torch.Tensor] = field(default_factory=list)


class CudaContext:
    """Runs a module on a GPU, in a stream of its own.

    Times on the device lie between events in the stream; enqueue is the time of the call that hands over the work.

    Args:
        runtime: With the module.
        cuda_graph: Whether a run launches a graph that was captured from the first run of its shapes.
    """

    def __init__(self, runtime: PytorchRuntime, *, cuda_graph: bool) -> None:
        self._runtime, self._graphs = runtime, cuda_graph
        self._stream: Any = cuda.Stream()
        self._marks: list[Any] = [cuda.Event(enable_timing=True) for _ in range(4)]
        self._held: Buffers | None = None

    def run(self, feeds: Arrays) -> Times:
        """Run once; returns when the outputs are in host memory."""
        runtime, marks = self._runtime, self._marks
        arrays = [torch.from_numpy(feeds[value.name]) for value in runtime.inputs]
        with torch.inference_mode(), cuda.stream(self._stream):
            runtime.dial(feeds)
            held = self._buffers(arrays)
            for pinned, array in zip(held.pinned, arrays, strict=True):
                pinned.copy_(array)
            marks[0].record()
            _copy(held.inputs, held.pinned)
            marks[1].record()
            began = perf_counter()
            if held.graph is None:
                outputs = runtime.module(*held.inputs)
            else:
                held.graph.replay()
                outputs = held.outputs
            enqueued = perf_counter()
            marks[2].record()
            held.results = held.results or [_pinned(output) for output in outputs]
            _copy(held.results, outputs)
            marks[3].record()
            marks[3].synchronize()
        transfer = marks[0].elapsed_time(marks[1]) + marks[2].elapsed_time(marks[3])
        return Times(marks[1].elapsed_time(marks[2]), (enqueued - began) * 1e3, transfer)

    def close(self) -> None:
        """Drop graph and buffers."""
        self._held = None

    def _buffers(self, arrays: Sequence[torch.Tensor]) -> Buffers:
        """Buffers for these shapes, made anew where the shapes are others than before."""
        shapes = tuple(tuple(array.shape) for array in arrays)
        if self._held is None or self._held.shapes != shapes:
            self._held = None  # before new ones are made: there may be no room for both
            inputs = [array.to(self._runtime.device, copy=True) for array in arrays]
            held = Buffers(shapes, [_pinned(array) for array in arrays], inputs)
            if self._graphs:
                self._capture(held)
            self._held = held
        return self._held

    def _capture(self, held: Buffers) -> None:
        for _ in range(_WARM_UP_RUNS):
            self._runtime.module(*held.inputs)
        self._stream.synchronize()
        held.graph = cuda.CUDAGraph()
        with cuda.graph(held.graph, stream=self._stream):
            held.outputs = tuple(self._runtime.module(*held.inputs))


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _pinned(like: torch.Tensor) -> torch.Tensor:
    """Page-locked host memory of the same shape and dtype."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=cuda.is_available())
