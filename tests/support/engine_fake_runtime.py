"""The half of the TensorRT double that runs engines: an "engine" is the ONNX file that the parser was given.

Nothing of acm_export runs in here. The standard operators run in ONNX's own reference evaluator, in NumPy, and
GatedLearners in the loop below, in float64. The portable file that ``build-engine`` compares with is another file (with
function bodies) in another runtime (ONNX Runtime), so the comparison can fail.

Work goes through the double of the CUDA driver (engine_fake_cuda.cpp), at the addresses that a context was given.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[dict[str, Any]], None]

_WORK = ctypes.CFUNCTYPE(None)
_KINDS = {TensorProto.FLOAT: "FLOAT", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64"}
_DTYPES = {"FLOAT": np.float32, "INT32": np.int32, "INT64": np.int64}

ACTIVATIONS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "gelu": lambda v: 0.5 * v * (1 + np.vectorize(math.erf, otypes=[np.float64])(v / math.sqrt(2))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "relu": lambda v: np.maximum(v, 0),
    "silu": lambda v: v / (1 + np.exp(-v)),
    "identity": lambda v: v,
}


def learner_count(logits: np.ndarray[Any, Any], thresholds: np.ndarray[Any, Any], least: int) -> int:
    """How many learners one token runs by the definition in docs/op.md."""
    count = least
    for c in range(1, len(logits)):
        if not logits[c:].max() - logits[:c].max() > thresholds[least + c - 1]:
            break
        count = least + c
    return count


class GatedLearners(OpRun):
    """The op, token by token and learner by learner, in float64."""

    op_domain = "ai.acm"
    count = staticmethod(learner_count)

    def _run(
        self, x: Any, logits: Any, thresholds: Any, w1: Any, b1: Any, w2: Any, b2: Any, **attributes: Any
    ) -> tuple[Any, Any]:
        least, act = attributes["min_learners"], ACTIVATIONS[attributes["activation"]]
        h = w1.shape[1] // attributes["num_learners"]
        tokens, z = x.reshape(-1, x.shape[-1]).astype(np.float64), logits.reshape(-1, logits.shape[-1])
        counts = np.array([self.count(row, thresholds, least) for row in z], np.int32)
        y = np.empty_like(tokens)
        for i, (token, count) in enumerate(zip(tokens, counts, strict=True)):
            y[i] = b2[count]
            for n in range(count):
                part = slice(n * h, (n + 1) * h)
                y[i] += act(token @ w1[:, part].astype(np.float64) + b1[part]) @ w2[part].astype(np.float64)
        return y.reshape(x.shape).astype(x.dtype), counts.reshape(x.shape[:-1])


class RunsOneLearnerFewer(GatedLearners):
    """Wrong on purpose: every token that can runs one learner fewer, and reports that count."""

    @staticmethod
    def count(logits: Any, thresholds: Any, least: int) -> int:
        return max(learner_count(logits, thresholds, least) - 1, least)


class IgnoresThresholds(GatedLearners):
    """Wrong on purpose: routes as if every threshold were 0."""

    @staticmethod
    def count(logits: Any, thresholds: Any, least: int) -> int:
        return learner_count(logits, np.zeros_like(thresholds), least)


class DropsBias(GatedLearners):
    """Wrong on purpose: routes correctly, but adds no output bias."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, Any]:
        *others, b2 = inputs
        return super()._run(*others, np.zeros_like(b2), **attributes)


class FakeRuntime:
    """Names of ``tensorrt.Runtime``.

    Args:
        library: The double of the CUDA driver, compiled; None for a runtime that loads no engine.
        shapes: Shapes of the optimization profile, as the builder was given them.
        change: Changes the outputs of every run, to make the engine wrong.
        op: Computes GatedLearners.
        enums: The enums DataType, TensorIOMode and TensorLocation.
    """

    def __init__(
        self, library: Path | None, shapes: dict[str, Any], change: Change, op: type[OpRun], enums: Any
    ) -> None:
        self._driver = None if library is None else ctypes.CDLL(str(library))
        self._shapes, self._change, self._op, self._enums = shapes, change, op, enums

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        if self._driver is None or serialized_engine == b"engine":
            return None
        return FakeEngine(serialized_engine, self._driver, self._shapes, self._change, self._op, self._enums)


class FakeEngine:
    """Names of ``tensorrt.ICudaEngine``."""

    def __init__(
        self, content: bytes, driver: ctypes.CDLL, shapes: dict[str, Any], change: Change, op: type[OpRun], enums: Any
    ) -> None:
        graph = onnx.load_from_string(content).graph
        op = type("GatedLearners", (op,), {})  # the evaluator finds an op by the name of its class
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(content), new_ops=[op])
        self._driver, self._change, self._enums = driver, change, enums
        self._inputs = [value.name for value in graph.input]
        self._outputs = [value.name for value in graph.output]
        self._types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
        self._profile = shapes
        self.num_io_tensors = len(self._types)

    def _run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name; only the double itself calls this."""
        return dict(zip(self._outputs, self._evaluator.run(self._outputs, feeds), strict=True))

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._enums.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        assert name in self._types
        return self._enums.TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return self._enums.DataType[_KINDS[self._types[name].elem_type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if dim.dim_param else dim.dim_value for dim in self._types[name].shape.dim)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name in self._inputs
        assert profile_index == 0
        return list(self._profile.get(name, [self.get_tensor_shape(name)] * 3))

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    """Names of ``tensorrt.IExecutionContext``."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._kept = engine, list[Any]()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        self._shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The evaluator knows shapes only after a run."""
        zeros = {n: np.zeros(s, self._dtype(n)) for n, s in self._shapes.items()}
        return tuple(self._engine._run(zeros)[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def work() -> None:
            feeds = {name: self._memory(addresses[name], shape, name).copy() for name, shape in shapes.items()}
            outputs = self._engine._run(feeds)
            self._engine._change(outputs)
            for name, value in outputs.items():
                self._memory(addresses[name], value.shape, name)[...] = value

        self._kept.append(_WORK(work))
        self._engine._driver.fake_enqueue(ctypes.c_void_p(stream_handle), self._kept[-1])
        return True

    def _dtype(self, name: str) -> Any:
        return _DTYPES[self._engine.get_tensor_dtype(name).name]

    def _memory(self, address: int, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
        dtype = np.dtype(self._dtype(name))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)
