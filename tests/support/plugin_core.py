"""The plugin's core through its C interface (plugins/tensorrt/harness/core_api.cpp), and the fake driver."""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from plugin_cases import OPERATORS, TENSORS, Case
from plugin_pack import Identity, argument_kind, argument_names

from acm_export.op.quantized_signature import QUANTIZED_GLU_INPUTS
from acm_export.op.signature import ACTIVATIONS, INPUTS, OUTPUTS
from acm_export.plugins.kernels.hopper import TensorMap
from acm_export.plugins.kernels.tiles import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from acm_export.plugins.kernels.plan import Problem

Place = tuple[str, int]
"""A tensor and a byte offset into it."""


class CPointers(ctypes.Structure):
    _fields_ = (("inputs", c_void_p * 15), ("outputs", c_void_p * 2), ("workspace", c_void_p), ("stream", c_void_p))


SPACING = 1 << 36
"""Between the addresses of fake tensors, so that an address tells its tensor."""


_PLACES = (*TENSORS, "workspace", *(name for name in QUANTIZED_GLU_INPUTS if name not in INPUTS))


def address_of(name: str) -> int:
    """The address that :func:`pointers` gives a tensor."""
    return (_PLACES.index(name) + 1) * SPACING


def pointers(inputs: Sequence[str] = INPUTS, **changes: int) -> CPointers:
    """An address for each tensor; 0 for null. ``inputs`` are those of the operator."""
    address = {name: address_of(name) for name in _PLACES} | {"stream": 77} | changes
    given, outputs = (c_void_p * 15)(*(address[n] for n in inputs)), (c_void_p * 2)(*(address[n] for n in OUTPUTS))
    return CPointers(given, outputs, address["workspace"], address["stream"])


def place(address: int) -> Place:
    """Tensor and byte offset of an address that :func:`pointers` gave."""
    return _PLACES[address // SPACING - 1], address % SPACING


def load(library: Path, driver: Path | str) -> ctypes.CDLL:
    """Load a harness library that opens ``driver`` as the CUDA driver."""
    os.environ["ACM_HARNESS_CUDA"] = str(driver)
    return ctypes.CDLL(str(library))


class Core:
    """``acm_core_harness``."""

    def __init__(self, library: Path, driver: Path | str) -> None:
        self._c = load(library, driver)
        self._c.acm_error.restype = c_char_p
        self._c.acm_layer_create.restype = c_void_p
        self._c.acm_layer_workspace.restype = c_int64

    @property
    def error(self) -> str:
        return str(self._c.acm_error().decode())

    def plan(self, problem: Problem) -> list[int] | None:
        """None if it is refused; ``error`` has the reason."""
        out = (c_int64 * 15)()
        return list(out) if self._c.acm_plan(_numbers(problem), out) == 0 else None

    def splits(self, problem: Problem, split: int) -> bool:
        return bool(self._c.acm_splits(_numbers(problem), c_int64(split)))

    def select(self, arch: str, precision: str, problem: Problem, *, aligned: bool, packed: bool = True) -> int:
        """``packed``: as for Python's, which here says that the driver encodes tensor maps."""
        number = PRECISIONS.index(precision)
        return int(self._c.acm_select(int(arch[3:]), number, _numbers(problem), int(aligned), int(packed)))

    def grids(self, problem: Problem, entry: int, rows: int) -> tuple[int, int, bool, bool] | None:
        """None if they are refused; ``error`` has the reason."""
        out = (c_int64 * 4)()
        if self._c.acm_grids(_numbers(problem), entry, c_int64(rows), out) != 0:
            return None
        return out[0], out[1], bool(out[2]), bool(out[3])

    def quantize_grid(self, problem: Problem, rows: int) -> tuple[int, int]:
        out = (c_int64 * 2)()
        self._c.acm_quantize_grid(_numbers(problem), c_int64(rows), out)
        return out[0], out[1]

    def tensor_maps(self, problem: Problem, entry: int, rows: int) -> dict[str, TensorMap] | None:
        """None if they are refused; ``error`` has the reason."""
        out = (c_uint64 * 24)()
        if self._c.acm_tensor_maps(_numbers(problem), entry, c_int64(rows), out) != 0:
            return None
        words = iter(out)
        return {
            f"{tensor}_map": TensorMap(tensor, _take(words, 3), _take(words, 2), _take(words, 3))
            for tensor in ("w1", "hidden", "w2")
        }

    def hopper_grids(self, problem: Problem, entry: int, rows: int, multiprocessors: int) -> tuple[int, int] | None:
        """None if they are refused; ``error`` has the reason."""
        out = (c_int64 * 2)()
        refused = self._c.acm_hopper_grids(_numbers(problem), entry, c_int64(rows), multiprocessors, out)
        return None if refused else (out[0], out[1])

    def architecture(self, major: int, minor: int, *, integrated: bool) -> str | None:
        found = int(self._c.acm_architecture(major, minor, int(integrated)))
        return None if found < 0 else f"sm_{found}"

    def layer(self, case: Case) -> Layer:
        handle = self._c.acm_layer_create(
            list(OPERATORS).index(case.operator),
            case.num_learners,
            case.min_learners,
            ACTIVATIONS.index(case.activation),
            int(case.allow_tf32),
        )
        assert handle, self.error
        return Layer(self._c, c_void_p(handle), case.inputs)


class Layer:
    """One ``acm::Layer``."""

    def __init__(self, library: ctypes.CDLL, handle: c_void_p, inputs: Sequence[str]) -> None:
        self._c, self._handle, self._inputs = library, handle, inputs

    def __del__(self) -> None:
        self._c.acm_layer_destroy(self._handle)

    def workspace(self, tensors: Any) -> int:
        return int(self._c.acm_layer_workspace(self._handle, tensors))

    def prepare(self, tensors: Any) -> bool:
        return bool(self._c.acm_layer_prepare(self._handle, tensors) == 0)

    def enqueue(self, tensors: Any, addresses: CPointers | None = None) -> bool:
        given = addresses or pointers(self._inputs)
        return bool(self._c.acm_layer_enqueue(self._handle, tensors, byref(given)) == 0)

    def tactics(self, tensors: Any) -> list[int]:
        out = (c_int32 * 64)()
        return list(out[: self._c.acm_layer_tactics(self._handle, tensors, out, 64)])

    def set_tactic(self, tactic: int) -> bool:
        return bool(self._c.acm_layer_set_tactic(self._handle, tactic) == 0)


@dataclass(frozen=True)
class EncodedMap:
    """A tensor map that the fake driver encoded."""

    dtype: str
    address: Place
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One kernel launch that the fake driver recorded."""

    kernel: Identity
    grid: tuple[int, int]
    block: int
    shared: int
    stream: int
    arguments: dict[str, int | Place | EncodedMap]


class Driver:
    """tests/plugin_fake_cuda.cpp."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.fake_launch.argtypes = (c_int, POINTER(c_uint64))
        self._c.fake_launch.restype = c_char_p

    def reset(self, capability: tuple[int, int] = (9, 0), *, integrated: bool = False) -> None:
        self._c.fake_device(*capability, int(integrated))
        self.context(0x1000, 1)
        self.fail_launches(0)
        self.version(13000)
        self._c.fake_forget_launches()

    def context(self, address: int, number: int) -> None:
        self._c.fake_context(c_uint64(address), c_uint64(number))

    def fail_launches(self, code: int) -> None:
        self._c.fake_fail_launches(code)

    def version(self, number: int) -> None:
        """Set the driver's version: 12030 for CUDA 12.3."""
        self._c.fake_driver_version(number)

    @property
    def num_overlapping(self) -> int:
        """Launches since the last call of :meth:`launches` that may start before the kernel ahead of them ends."""
        return int(self._c.fake_num_overlapping())

    @property
    def num_modules(self) -> int:
        return int(self._c.fake_num_modules())

    def launches(self, placed: Callable[[int], Place] = place) -> list[Launch]:
        """All since the last call; ``placed`` gives tensor and byte offset of an address."""
        found = [self._launch(index, placed) for index in range(self._c.fake_num_launches())]
        self._c.fake_forget_launches()
        return found

    def _launch(self, index: int, placed: Callable[[int], Place]) -> Launch:
        out = (c_uint64 * 64)()
        kernel = Identity.parse(self._c.fake_launch(index, out).decode())
        words, arguments = iter(out[6 : 6 + out[5]]), {}
        for name in argument_names()[kernel.kernel]:
            kind = argument_kind(kernel.kernel, name)
            if kind == "map":
                arguments[name] = _decoded(struct.pack("16Q", *_take(words, _MAP_WORDS)), placed)
            else:
                arguments[name] = placed(next(words)) if kind == "ptr" else next(words)
        assert next(words, None) is None
        return Launch(kernel, (out[0], out[1]), out[2], out[3], out[4], arguments)


_MAP_WORDS = 16
_MAP_DTYPES = {6: "float16", 9: "bfloat16"}


def _decoded(encoded: bytes, placed: Callable[[int], Place]) -> EncodedMap:
    magic, address, *numbers = struct.unpack_from("8sQ5Q4I", encoded)
    assert magic == b"ACM map\0"
    return EncodedMap(
        _MAP_DTYPES[numbers[8]], placed(address), tuple(numbers[:3]), tuple(numbers[3:5]), tuple(numbers[5:8])
    )


def _take(words: Iterator[int], count: int) -> Any:
    return tuple(islice(words, count))


def _numbers(problem: Problem) -> Any:
    return (c_int64 * 7)(*(int(getattr(problem, field.name)) for field in fields(problem)))
