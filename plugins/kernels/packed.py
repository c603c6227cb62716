"""Run kernels of the pack on PyTorch tensors, through the CUDA driver: nothing is compiled, and a launch costs little.

The C++ plugin launches the same kernels with the same arguments (plugins/tensorrt/core/launch.cpp).
"""

from __future__ import annotations

import ctypes
import logging
import threading
from ctypes import POINTER, Structure, addressof, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p, pointer
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch

from acm_export.errors import KernelError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import hopper, plan
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acm_export.plugins.kernels.hopper import TensorMap
    from acm_export.plugins.kernels.pack import Kernel, Pack
    from acm_export.plugins.kernels.plan import Problem
    from acm_export.plugins.kernels.tiles import Entry
    from acm_export.plugins.kernels.variants import Key

_log = logging.getLogger(__name__)

LIBRARY = "libcuda.so.1"
DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16"}

# Values of the driver's enumerations.
_MAX_DYNAMIC_SHARED_BYTES = 8
_MAP_DTYPES = {torch.float16: 6, torch.bfloat16: 9}
_SWIZZLE_128_BYTES, _PROMOTE_TO_256_BYTES = 3, 3
_MAP_BYTES, _MAP_ALIGNMENT = 128, 64
_PROGRAMMATIC_STREAM_SERIALIZATION = 6

_MOST_CALLS, _MOST_MAPS = 1024, 4096
"""Prepared calls and encoded maps that are kept."""

_OVERLAP_FROM = 12030
"""First version of the driver (CUDA 12.3) that can capture an overlapping launch in a graph."""


class _LaunchAttribute(Structure):
    """``CUlaunchAttribute`` with a value that is one integer."""

    _fields_ = (("id", c_int), ("padding", c_uint8 * 4), ("value", c_int), ("unused", c_uint8 * 60))


class _LaunchConfig(Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", c_uint32 * 3), ("block", c_uint32 * 3), ("shared_bytes", c_uint32), ("stream", c_void_p),
        ("attributes", POINTER(_LaunchAttribute)), ("num_attributes", c_uint32),
    )  # fmt: skip


_OVERLAPPING = _LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
"""The kernel may start before the one before it has ended; it waits for its results itself (device.cuh)."""


def allocate(size: int, device: torch.device) -> torch.Tensor:
    """The workspace of a call, in bytes."""
    return torch.empty(size, dtype=torch.uint8, device=device)


@cache
def packed_kernels(device: torch.device, arch: str) -> PackedKernels | None:
    """The kernels of the installed pack for a GPU; None, after a warning, if the pack cannot be used.

    Args:
        device: A CUDA device.
        arch: Its architecture.
    """
    try:
        return PackedKernels(read_pack(), arch, torch.cuda.get_device_properties(device).multi_processor_count)
    except KernelError as error:
        _log.warning("%s; Triton's kernels run instead, which are slower on %s (%s)", error, arch, error.hint)
        return None


class PackedKernels:
    """Kernels of one architecture, each loaded when it is first launched.

    Args:
        pack: Holds them.
        arch: ``sm_90`` and so on.
        multiprocessors: Number of multiprocessors of the GPU.
        library: Name of the CUDA driver's library; tests pass a stand-in.

    Raises:
        KernelError: No CUDA driver was found, or it is older than CUDA 12.
    """

    def __init__(self, pack: Pack, arch: str, multiprocessors: int, library: str = LIBRARY) -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise KernelError(f"no CUDA driver was found: {error}", "acm-export doctor says what is missing") from error
        if not hasattr(self._cuda, "cuTensorMapEncodeTiled"):
            raise KernelError("the CUDA driver has no cuTensorMapEncodeTiled", "install a driver for CUDA 12 or later")
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        self._overlaps = version.value >= _OVERLAP_FROM
        self._pack = pack
        self._rows: dict[Key, Kernel] = {kernel.key: kernel for kernel in pack.kernels if kernel.arch == arch}
        self._functions: dict[Key, c_void_p] = {}
        self._lock = threading.Lock()
        self._calls: dict[tuple[Problem, int, str, str, torch.dtype], _Call] = {}
        self._indices: dict[int, tuple[Entry, int]] = {}
        self._maps: dict[tuple[int, int], _Map] = {}
        self.multiprocessors = multiprocessors

    def run(
        self,
        problem: Problem,
        entry: Entry,
        activation: str,
        precision: str,
        tensors: Mapping[str, torch.Tensor],
        *,
        stream: int,
    ) -> None:
        """Queue everything: routing, then both GEMMs for each chunk of sorted rows.

        Args:
            problem: Shapes.
            entry: Entry of the table.
            activation: One of :data:`acm_export.op.ACTIVATIONS`.
            precision: One of :data:`acm_export.plugins.kernels.tiles.PRECISIONS`.
            tensors: Inputs and outputs by the names of the kernels' arguments. The workspace is allocated here.
            stream: Handle of the stream.

        Raises:
            KernelError: The pack has no such kernel, or the driver refuses it.
        """
        with self._lock:
            x = tensors["x"]
            key = problem, self._index(entry), activation, precision, x.dtype
            call = self._calls.get(key)
            if call is None:
                if len(self._calls) >= _MOST_CALLS:
                    self._calls.clear()
                    self._maps.clear()  # they are told by maps of calls
                call = self._calls[key] = self._prepare(problem, entry, *key[1:])
            workspace = allocate(call.layout.size, x.device)
            start = workspace.data_ptr()
            for name, slot in call.slots.items():
                slot.value = tensors[name].data_ptr()
            for slot, offset in call.workspace.values():
                slot.value = start + offset
            if len(self._maps) + len(call.maps) > _MOST_MAPS:  # not later: launches read them where they lie
                self._maps.clear()
            for arguments, place, tensor_map in call.maps:
                where = tensors.get(tensor_map.tensor)
                address = start + call.layout.hidden if where is None else where.data_ptr()
                arguments[place] = self._encode(tensor_map, address, x.dtype)
            for launch in call.launches:
                launch.config.stream = stream
                self._call("cuLaunchKernelEx", byref(launch.config), launch.function, launch.arguments, None)

    def _prepare(
        self, problem: Problem, entry: Entry, index: int, activation: str, precision: str, dtype: torch.dtype
    ) -> _Call:
        """All launches for a shape; addresses are filled in for each call."""
        call, routing = _Call(plan.workspace(problem)), plan.routing(problem)
        numbers = {
            "num_tokens": problem.tokens, "num_choices": problem.num_choices, "min_learners": problem.min_learners,
            "num_pieces": routing.num_pieces, "model_dim": problem.model_dim, "hidden_dim": problem.hidden_dim,
            "num_learners": problem.num_learners, "activation": ACTIVATIONS.index(activation),
            "num_arrivals": plan.down_grid(problem, entry, problem.tokens) if entry.split else 0,
        }  # fmt: skip
        kernels = ("route_one_block",) if routing.num_blocks == 1 else ("count_tokens", "place_tokens")
        for kernel in kernels:
            self._add(call, (kernel, "", routing.choices, False, ""), (routing.num_blocks, 1), numbers)
        name = DTYPES[dtype] if precision == "half" else precision
        # the pack has kernels without masks for these alone (variants.py)
        may_be_even = entry.alignment > 1 and precision == "half"
        even_up, even_down = plan.even(problem, entry)
        for first, rows in problem.chunks():
            numbers = numbers | {"first_row": first, "num_rows": rows}
            if entry.language == "cuda":
                maps = hopper.tensor_maps(problem, entry, rows)
                up, down = hopper.grids(problem, entry, rows, self.multiprocessors)
                self._add(call, (hopper.UP, name, index, False, activation), (up, 1), numbers, maps)
                self._add(call, (hopper.DOWN, name, index, False, ""), (down, 1), numbers, maps)
            else:
                kernel, slices = ("down_split", problem.num_learners * entry.split) if entry.split else ("down", 1)
                up, down = plan.up_grid(problem, entry, rows), plan.down_grid(problem, entry, rows)
                self._add(call, ("up", name, index, may_be_even and even_up, ""), (up, 1), numbers)
                self._add(call, (kernel, name, index, may_be_even and even_down, ""), (down, slices), numbers)
        return call

    def _add(
        self,
        call: _Call,
        key: Key,
        grid: tuple[int, int],
        numbers: Mapping[str, int],
        maps: Mapping[str, TensorMap] | None = None,
    ) -> None:
        """Add a launch; a kernel that takes maps may start early."""
        function, row = self._function(key), self._rows[key]
        arguments = (c_void_p * (len(row.arguments) + 2))()
        for place, (name, kind) in enumerate(row.arguments):
            if kind == "map":
                call.maps.append((arguments, place, (maps or {})[name]))
            elif kind == "ptr":
                arguments[place] = addressof(call.slot(name))
            else:
                call.numbers.append(c_int(numbers[name]))
                arguments[place] = addressof(call.numbers[-1])
        arguments[-2] = arguments[-1] = addressof(_NO_SCRATCH)
        early = maps is not None and self._overlaps
        config = _LaunchConfig(
            (*grid, 1), (row.threads, 1, 1), row.shared_bytes, None, pointer(_OVERLAPPING), int(early)
        )  # fmt: skip
        call.launches.append(_Launch(function, config, arguments))

    def _index(self, entry: Entry) -> int:
        """Of an entry in the table."""
        found = self._indices.get(id(entry))
        if found is None or found[0] is not entry:
            found = self._indices[id(entry)] = entry, entries().index(entry)
        return found[1]

    def _function(self, key: Key) -> c_void_p:
        if key not in self._functions:
            if key not in self._rows:
                raise KernelError(f"the kernel pack has no kernel {key}")
            row, module, function = self._rows[key], c_void_p(), c_void_p()
            self._call("cuModuleLoadData", byref(module), c_char_p(self._pack.cubin(row)))
            self._call("cuModuleGetFunction", byref(function), module, c_char_p(row.symbol.encode()))
            self._call("cuFuncSetAttribute", function, c_int(_MAX_DYNAMIC_SHARED_BYTES), c_int(row.shared_bytes))
            self._functions[key] = function
        return self._functions[key]

    def _encode(self, tensor_map: TensorMap, address: int, dtype: torch.dtype) -> int:
        """Where the encoded map of a tensor lies; it is kept, since tensors tend to lie where they lay before."""
        key = id(tensor_map), address
        encoded = self._maps.get(key)
        if encoded is None:
            encoded = _Map()
            self._call(
                "cuTensorMapEncodeTiled", c_void_p(encoded.address), c_int(_MAP_DTYPES[dtype]), c_uint32(3),
                c_void_p(address), (c_uint64 * 3)(*tensor_map.dims), (c_uint64 * 2)(*tensor_map.strides),
                (c_uint32 * 3)(*tensor_map.box), (c_uint32 * 3)(1, 1, 1), c_int(0), c_int(_SWIZZLE_128_BYTES),
                c_int(_PROMOTE_TO_256_BYTES), c_int(0),
            )  # fmt: skip
            self._maps[key] = encoded
        return encoded.address

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = c_char_p()
            self._cuda.cuGetErrorName(code, byref(text))
            reason = (text.value or b"").decode(errors="replace") or f"error {code}"
            raise KernelError(f"the CUDA driver's {name} failed: {reason}")


class _Map:
    """Memory for one encoded tensor map, at the alignment that the driver asks for."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGNMENT)
        self.address = -(-ctypes.addressof(self._memory) // _MAP_ALIGNMENT) * _MAP_ALIGNMENT


_NO_SCRATCH = c_void_p()
"""Two pointers to scratch memory follow the arguments of Triton's kernels; the others ignore them."""


@dataclass(frozen=True)
class _Launch:
    """One launch of a kernel."""

    function: c_void_p
    config: _LaunchConfig
    arguments: ctypes.Array[c_void_p]


@dataclass
class _Call:
    """The launches of the op for one shape; each call fills in the addresses and the stream.

    Args:
        layout: Of the workspace.
        launches: In their order.
        slots: Where the kernels find the addresses of inputs and outputs, by name.
        workspace: The same for arrays of the workspace, with their offsets.
        numbers: Of the arguments, kept alive.
        maps: Arguments and place of each tensor map.
    """

    layout: plan.Workspace
    launches: list[_Launch] = field(default_factory=list)
    slots: dict[str, c_void_p] = field(default_factory=dict)
    workspace: dict[str, tuple[c_void_p, int]] = field(default_factory=dict)
    numbers: list[c_int] = field(default_factory=list)
    maps: list[tuple[ctypes.Array[c_void_p], int, TensorMap]] = field(default_factory=list)

    def slot(self, name: str) -> c_void_p:
        """Where the address of a tensor is filled in."""
        if not hasattr(self.layout, name):
            return self.slots.setdefault(name, c_void_p())
        return self.workspace.setdefault(name, (c_void_p(), getattr(self.layout, name)))[0]
