"""A PyTorch module that runs on the CPU, or on a GPU with device, enqueue and transfer times."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import cuda

from acm_export.modules import acm_layers
from acm_export.modules.wrapper import PREFIX
from acm_export.timing.backends.backend import NO_DEVICE_TIMES, DeviceTimes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from acm_export.data.batches import Arrays, GraphInput

_WARM_UP_RUNS = 3
"""Runs before a capture: libraries allocate memory and choose algorithms in their first runs."""


class PytorchModel:
    """A module whose thresholds are buffers, written when a run feeds different thresholds than the last run.

    Args:
        module: Module that takes tensors in the order of the inputs and returns a tuple of tensors, as
            :class:`acm_export.modules.wrapper.Exportable` does; it is moved to the device.
        inputs: Inputs of the module.
        device: Device to run on.
        cuda_graph: Whether its contexts launch CUDA graphs.
    """

    def __init__(
        self, module: nn.Module, inputs: tuple[GraphInput, ...], device: torch.device, *, cuda_graph: bool = False
    ) -> None:
        self.inputs, self.device, self._cuda_graph = inputs, device, cuda_graph
        self.module: nn.Module = module.to(device).eval()
        self._thresholds = {f"{name.removeprefix(PREFIX)}.thresholds": layer for name, layer in acm_layers(self.module)}
        self._written: Arrays = {}

    def context(self) -> CpuContext | CudaContext:
        """Create a context; on a GPU it has its own stream and buffers."""
        return CudaContext(self, cuda_graph=self._cuda_graph) if self.device.type == "cuda" else CpuContext(self)

    def write_thresholds(self, feeds: Arrays) -> None:
        """Write the thresholds among the feeds if they are not the same arrays as before."""
        changed = [name for name in self._thresholds if name in feeds and self._written.get(name) is not feeds[name]]
        for name in changed:
            self._thresholds[name].thresholds.copy_(torch.tensor(feeds[name]))
            self._written[name] = feeds[name]
        if changed and self.device.type == "cuda":
            cuda.synchronize()  # every context runs in its own stream

    def close(self) -> None:
        """Drop the module."""
        self.module, self._thresholds = torch.nn.Identity(), {}


class CpuContext:
    """Runs a module on the CPU, where host time is the only time.

    Args:
        model: Model to run.
    """

    def __init__(self, model: PytorchModel) -> None:
        self._model = model

    def run(self, feeds: Arrays) -> DeviceTimes:
        """Run once."""
        model = self._model
        with torch.inference_mode():
            model.write_thresholds(feeds)
            model.module(*(torch.from_numpy(feeds[value.name]) for value in model.inputs))
        return NO_DEVICE_TIMES

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class Buffers:
    """Memory for inputs of given shapes, and their CUDA graph.

    Args:
        pinned: Inputs in page-locked host memory, from which copies are asynchronous.
        inputs: Inputs on the device, at the addresses that the graph uses.
        outputs: Outputs of the graph on the device.
        graph: Graph captured with these inputs, or None.
        results: Outputs in page-locked host memory; empty before the first run.
    """

    pinned: list[torch.Tensor]
    inputs: list[torch.Tensor]
    outputs: tuple[torch.Tensor, ...] = ()
    graph: cuda.CUDAGraph | None = None
    results: list[torch.Tensor] = field(default_factory=list)


class CudaContext:
    """Runs a module on a GPU, in its own stream.

    Device times are measured between events in the stream; enqueue time is the time of the call that enqueues the work.

    Args:
        model: Model to run.
        cuda_graph: Whether a run launches a graph, captured in the first run of its shapes.
    """

    def __init__(self, model: PytorchModel, *, cuda_graph: bool) -> None:
        self._model, self._cuda_graph = model, cuda_graph
        self._stream = cuda.Stream()
        self._events = [cuda.Event(enable_timing=True) for _ in range(4)]
        self._buffers: dict[tuple[tuple[int, ...], ...], Buffers] = {}

    def run(self, feeds: Arrays) -> DeviceTimes:
        """Run once; returns when the outputs are in host memory."""
        model, events = self._model, self._events
        arrays = [torch.from_numpy(feeds[value.name]) for value in model.inputs]
        with torch.inference_mode(), cuda.stream(self._stream):
            model.write_thresholds(feeds)
            buffers = self._buffers_for(arrays)
            for pinned, array in zip(buffers.pinned, arrays, strict=True):
                pinned.copy_(array)
            events[0].record()
            _copy(buffers.inputs, buffers.pinned)
            events[1].record()
            began = perf_counter()
            if buffers.graph is None:
                outputs = model.module(*buffers.inputs)
            else:
                buffers.graph.replay()
                outputs = buffers.outputs
            enqueued = perf_counter()
            events[2].record()
            buffers.results = buffers.results or [_pinned(output) for output in outputs]
            _copy(buffers.results, outputs)
            events[3].record()
            events[3].synchronize()
        transfer = events[0].elapsed_time(events[1]) + events[2].elapsed_time(events[3])
        return DeviceTimes(events[1].elapsed_time(events[2]), (enqueued - began) * 1e3, transfer)

    def close(self) -> None:
        """Drop the graph and buffers."""
        self._buffers = {}

    def _buffers_for(self, arrays: Sequence[torch.Tensor]) -> Buffers:
        """Buffers for these shapes; without graphs, those of other shapes are kept for requests of other lengths."""
        shapes = tuple(tuple(array.shape) for array in arrays)
        if shapes not in self._buffers:
            if self._cuda_graph:
                self._buffers = {}  # before a new graph is made: there may be no memory for both
            inputs = [array.to(self._model.device, copy=True) for array in arrays]
            buffers = Buffers([_pinned(array) for array in arrays], inputs)
            if self._cuda_graph:
                self._capture(buffers)
            self._buffers[shapes] = buffers
        return self._buffers[shapes]

    def _capture(self, buffers: Buffers) -> None:
        for _ in range(_WARM_UP_RUNS):
            self._model.module(*buffers.inputs)
        self._stream.synchronize()
        buffers.graph = cuda.CUDAGraph()
        with cuda.graph(buffers.graph, stream=self._stream):
            buffers.outputs = tuple(self._model.module(*buffers.inputs))


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _pinned(like: torch.Tensor) -> torch.Tensor:
    """Page-locked host memory of the same shape and dtype."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=cuda.is_available())
