"""The half of a stand-in for TensorRT that runs engines: an "engine" is the parsed ONNX file, run by ONNX Runtime.

Work goes through the stand-in driver (engine_fake_cuda.cpp), at the addresses that a context was told.
"""

from __future__ import annotations

import ctypes
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from exported_files import session

from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.targets import retarget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_WORK = ctypes.CFUNCTYPE(None)
_KINDS = {"tensor(float)": "FLOAT", "tensor(int32)": "INT32", "tensor(int64)": "INT64"}
_DTYPES = {"FLOAT": np.float32, "INT32": np.int32, "INT64": np.int64}


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class FakeRuntime:
    """Names of ``tensorrt.Runtime``.

    Args:
        library: The stand-in driver, compiled.
        shapes: Of the optimisation profile, as the builder was told.
        change: Is given the outputs of every run, to make the engine wrong.
    """

    def __init__(self, library: Path, shapes: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
        self._driver, self._shapes, self._change = ctypes.CDLL(str(library)), shapes, change

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        return None if content == b"engine" else FakeEngine(content, self._driver, self._shapes, self._change)


class FakeEngine:
    """Names of ``tensorrt.ICudaEngine``."""

    def __init__(
        self, content: bytes, driver: ctypes.CDLL, shapes: dict[str, Any], change: Callable[[dict[str, Any]], None]
    ) -> None:
        model = onnx.load_from_string(content)
        manifest = read_manifest(model, "the engine")
        retarget(model, manifest.replaced(calibration=None), "portable")
        self.session, self.driver, self.change = session(model.SerializeToString()), driver, change
        self._inputs = {value.name: value for value in self.session.get_inputs()}
        self._values = self._inputs | {value.name: value for value in self.session.get_outputs()}
        self._profile = shapes
        self.num_io_tensors = len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, _name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_KINDS[self._values[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._values[name].shape)

    def get_tensor_profile_shape(self, name: str, _profile: int) -> list[tuple[int, ...]]:
        assert name in self._inputs
        return list(self._profile.get(name, [self.get_tensor_shape(name)] * 3))

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    """Names of ``tensorrt.IExecutionContext``."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._kept = engine, list[Any]()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.enqueued = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        self._shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """ONNX Runtime tells shapes only by running."""
        zeros = {n: np.zeros(s, self._dtype(n)) for n, s in self._shapes.items()}
        return tuple(self._engine.session.run([name], zeros)[0].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.enqueued += 1
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def work() -> None:
            feeds = {name: self._memory(addresses[name], shape, name).copy() for name, shape in shapes.items()}
            names = [value.name for value in self._engine.session.get_outputs()]
            outputs = dict(zip(names, self._engine.session.run(names, feeds), strict=True))
            self._engine.change(outputs)
            for name, value in outputs.items():
                self._memory(addresses[name], value.shape, name)[...] = value

        self._kept.append(_WORK(work))
        self._engine.driver.fake_enqueue(ctypes.c_void_p(stream_handle), self._kept[-1])
        return True

    def _dtype(self, name: str) -> Any:
        return _DTYPES[self._engine.get_tensor_dtype(name).name]

    def _memory(self, address: int, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
        dtype = np.dtype(self._dtype(name))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)
