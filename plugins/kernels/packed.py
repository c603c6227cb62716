"""Run kernels of the pack on PyTorch tensors, through the CUDA driver: nothing is compiled, and a launch costs little.

The C++ plugin launches the same kernels with the same arguments (plugins/tensorrt/core/launch.cpp).
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, Structure, addressof, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p, pointer
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
            tensors: Tensors by the names of the kernels' arguments.
            stream: Handle of the stream.

        Raises:
            KernelError: The pack has no such kernel, or the driver refuses it.
        """
        routing = plan.routing(problem)
        numbers = {
            "num_tokens": problem.tokens, "num_choices": problem.num_choices, "min_learners": problem.min_learners,
            "num_pieces": routing.num_pieces, "model_dim": problem.model_dim, "hidden_dim": problem.hidden_dim,
            "num_learners": problem.num_learners, "activation": ACTIVATIONS.index(activation),
            "num_arrivals": plan.down_grid(problem, entry, problem.tokens) if entry.split else 0,
        }  # fmt: skip
        values: dict[str, Value] = {name: c_void_p(tensor.data_ptr()) for name, tensor in tensors.items()}
        values |= {name: c_int(number) for name, number in numbers.items()}
        kernels = ("route_one_block",) if routing.num_blocks == 1 else ("count_tokens", "place_tokens")
        for kernel in kernels:
            self._launch((kernel, "", routing.choices, False, ""), (routing.num_blocks, 1), values, stream)
        dtype = DTYPES[tensors["x"].dtype] if precision == "half" else precision
        index = entries().index(entry)
        for first, rows in problem.chunks():
            values["first_row"], values["num_rows"] = c_int(first), c_int(rows)
            if entry.language == "cuda":
                for name, tensor_map in hopper.tensor_maps(problem, entry, rows).items():
                    values[name] = self._encode(tensor_map, tensors[tensor_map.tensor])
                up, down = hopper.grids(problem, entry, rows, self.multiprocessors)
                self._launch((hopper.UP, dtype, index, False, activation), (up, 1), values, stream, early=True)
                self._launch((hopper.DOWN, dtype, index, False, ""), (down, 1), values, stream, early=True)
            else:
                # the pack has kernels without masks for these alone (variants.py)
                may_be_even = entry.alignment > 1 and precision == "half"
                even_up, even_down = plan.even(problem, entry)
                up_key = ("up", dtype, index, may_be_even and even_up, "")
                down_key = ("down_split" if entry.split else "down", dtype, index, may_be_even and even_down, "")
                slices = problem.num_learners * entry.split or 1
                self._launch(up_key, (plan.up_grid(problem, entry, rows), 1), values, stream)
                self._launch(down_key, (plan.down_grid(problem, entry, rows), slices), values, stream)

    def _launch(
        self, key: Key, grid: tuple[int, int], values: Mapping[str, Value], stream: int, *, early: bool = False
    ) -> None:
        """Queue a kernel; ``early``: it may start before the one ahead of it has ended."""
        function, row = self._function(key), self._rows[key]
        given = [values[name] for name, _ in row.arguments] + [_NO_SCRATCH] * 2
        addresses = [value.address if isinstance(value, _Map) else addressof(value) for value in given]
        config = _LaunchConfig(
            (*grid, 1), (row.threads, 1, 1), row.shared_bytes, stream, pointer(_OVERLAPPING),
            int(early and self._overlaps),
        )  # fmt: skip
        self._call("cuLaunchKernelEx", byref(config), function, (c_void_p * len(given))(*addresses), c_void_p())

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

    def _encode(self, tensor_map: TensorMap, tensor: torch.Tensor) -> _Map:
        encoded = _Map()
        self._call(
            "cuTensorMapEncodeTiled", c_void_p(encoded.address), c_int(_MAP_DTYPES[tensor.dtype]), c_uint32(3),
            c_void_p(tensor.data_ptr()), (c_uint64 * 3)(*tensor_map.dims), (c_uint64 * 2)(*tensor_map.strides),
            (c_uint32 * 3)(*tensor_map.box), (c_uint32 * 3)(1, 1, 1), c_int(0), c_int(_SWIZZLE_128_BYTES),
            c_int(_PROMOTE_TO_256_BYTES), c_int(0),
        )  # fmt: skip
        return encoded

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


Value = c_void_p | c_int | _Map
"""An argument of a kernel."""

_NO_SCRATCH = c_void_p()
"""Two pointers to scratch memory follow the arguments of Triton's kernels; the others ignore them."""
