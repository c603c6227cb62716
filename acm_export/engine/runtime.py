"""Run an engine: load it with its plugin, feed it from host memory, and time it on the device.

Only names that TensorRT's Python bindings have from 8.5 to 11.4 are used.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import EngineError
from acm_export.data.batches import GraphInput
from acm_export.engine import host
from acm_export.engine.context import EngineIO, ExecutionContext, Tensor
from acm_export.engine.library import load_plugin
from acm_export.engine.log import logger, reasons
from acm_export.engine.passport import check_usable, read_runnable
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.build import LIBRARY
from acm_export.runtimes.cuda_driver import Driver

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import tensorrt as trt

    from acm_export.engine.passport import Passport

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}

_SHARES_PROFILES = (10,)
"""First TensorRT whose contexts can share an optimization profile. Before it, every context in use needs its own
profile, so it gets its own engine, as each stream of trtexec does."""


class Engine:
    """An engine that ``build-engine`` wrote.

    Args:
        path: Path of the engine; its passport is next to it.
        plugin: Plugin library that it was built with; by default the one next to it.

    Raises:
        EngineError: The engine was built for another GPU or TensorRT, was modified, lacks its plugin, or does not load.
        MissingDependencyError: TensorRT is not installed.
    """

    def __init__(self, path: Path, plugin: Path | None = None) -> None:
        read_runnable(path)
        tensorrt = host.find_tensorrt(builder=False)
        library = plugin or path.absolute().parent / LIBRARY
        self.passport: Passport = check_usable(path, library, host.find_platform(tensorrt))
        if self.passport.plugin is not None:
            load_plugin(tensorrt, library)
        self._loaded = LoadedEngine(tensorrt, path.read_bytes(), str(path))
        self.version: str = tensorrt.__version__
        shapes = self.passport.inputs
        self.inputs = tuple(
            GraphInput(tensor.name, tuple(shapes.get(tensor.name, tensor.shape)), tensor.dtype)
            for tensor in self._loaded.inputs
        )
        self.outputs = tuple(tensor.name for tensor in self._loaded.outputs)

    def context(self, *, cuda_graph: bool = False) -> ExecutionContext:
        """A new execution context, with its own memory and stream.

        Args:
            cuda_graph: Whether runs launch a CUDA graph, captured at the first run of each set of input shapes.
        """
        return self._loaded.context(cuda_graph=cuda_graph)

    def close(self) -> None:
        """Free the engine; close its contexts first."""
        self._loaded.close()


class LoadedEngine:
    """A deserialized engine, with or without a passport.

    Args:
        tensorrt: The TensorRT module, with the plugin in its registry.
        content: The serialized engine.
        name: Name of the engine for errors.

    Raises:
        EngineError: TensorRT cannot load the engine, or it has a tensor of an unsupported type or location.
        CudaError: There is no CUDA driver, or it fails.
    """

    def __init__(self, tensorrt: ModuleType, content: bytes, name: str) -> None:
        self.name, self._driver = name, Driver()
        log = logger(tensorrt)
        log.errors.clear()
        self._errors: list[str] = log.errors
        self._runtime = tensorrt.Runtime(log)
        self._version, self._content = tensorrt.__version__, content
        self._engine = self._deserialized()
        self._shared = numbers(self._version) >= _SHARES_PROFILES
        self._idle: list[trt.ICudaEngine] = [] if self._shared else [self._engine]
        every = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {tensor: self._engine.get_tensor_mode(tensor) for tensor in every}
        into = [tensor for tensor, mode in modes.items() if mode == tensorrt.TensorIOMode.INPUT]
        for tensor in every:
            if self._engine.get_tensor_location(tensor) != tensorrt.TensorLocation.DEVICE:
                raise EngineError(f"{name}: {tensor} is in host memory; only device memory is supported")
        self.inputs = tuple(self._tensor(tensor, profile=True) for tensor in into)
        self.outputs = tuple(self._tensor(tensor, profile=False) for tensor in every if tensor not in into)

    def context(self, *, cuda_graph: bool = False) -> ExecutionContext:
        """A new execution context; see :meth:`Engine.context`."""
        if self._engine is None:
            raise ValueError("the engine is closed")
        self._driver.enter()
        engine = self._engine if self._shared else (self._idle.pop() if self._idle else self._deserialized())
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"TensorRT cannot create an execution context for {self.name}{reasons(self._errors)}",
                "the GPU may be out of memory: nvidia-smi shows which processes use it",
            )
        release = None if self._shared else partial(self._idle.append, engine)
        io = EngineIO(self.name, self.inputs, self.outputs, self._errors)
        return ExecutionContext(io, context, self._driver, release, cuda_graph=cuda_graph)

    def close(self) -> None:
        """Free the engine and release the CUDA context."""
        if self._engine is not None:
            self._idle.clear()
            self._engine = self._runtime = None
            self._driver.close()

    def _deserialized(self) -> trt.ICudaEngine:
        engine = self._runtime.deserialize_cuda_engine(self._content)
        if engine is None:
            raise EngineError(
                f"TensorRT {self._version} cannot load {self.name}{reasons(self._errors)}",
                "rebuild it on this machine: acm-export build-engine",
            )
        return engine

    def _tensor(self, name: str, *, profile: bool) -> Tensor:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(f"{self.name}: {name} has type {kind}; supported are {', '.join(_DTYPES)}")
        shapes = self._engine.get_tensor_profile_shape(name, 0) if profile else ()
        shape = tuple(self._engine.get_tensor_shape(name))
        return Tensor(name, shape, np.dtype(_DTYPES[kind]), tuple(tuple(s) for s in shapes))
