"""Run kernels of the pack on PyTorch tensors, through the CUDA driver: those that Triton has no source for.

The C++ plugin launches the same kernels with the same arguments (plugins/tensorrt/core/launch.cpp).
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p, pointer
from functools import cache
from typing import TYPE_CHECKING

import torch

from acm_export.errors import KernelError
from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels.pack import read_pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    def run_gemms(
        self,
        problem: Problem,
        entry: Entry,
        index: int,
        activation: str,
        tensors: Mapping[str, torch.Tensor],
        *,
        first_row: int,
        num_rows: int,
        stream: int,
    ) -> None:
        """Queue both GEMMs for one chunk of sorted rows.

        Args:
            problem: Shapes.
            entry: Tile sizes, of kernels in CUDA.
            index: Index of the entry in the table.
            activation: One of :data:`acm_export.op.ACTIVATIONS`.
            tensors: Tensors by the names of the kernels' arguments.
            first_row: Sorted row at which the chunk begins.
            num_rows: Rows of the chunk.
            stream: Handle of the stream.

        Raises:
            KernelError: The pack has no such kernel, or the driver refuses it.
        """
        dtype = tensors["x"].dtype
        maps = {
            name: self._encode(tensor_map, tensors[tensor_map.tensor], dtype)
            for name, tensor_map in hopper.tensor_maps(problem, entry, num_rows).items()
        }
        numbers = {
            "first_row": first_row, "num_rows": num_rows, "model_dim": problem.model_dim,
            "hidden_dim": problem.hidden_dim, "num_learners": problem.num_learners,
        }  # fmt: skip
        values: dict[str, c_void_p | c_int] = {name: c_void_p(t.data_ptr()) for name, t in tensors.items()}
        values |= {name: c_int(number) for name, number in numbers.items()}
        grids = hopper.grids(problem, entry, num_rows, self.multiprocessors)
        for kernel, applied, grid in zip((hopper.UP, hopper.DOWN), (activation, ""), grids, strict=True):
            addresses = [
                maps[name].address if name in maps else ctypes.addressof(values[name])
                for name in hopper.ARGUMENTS[kernel]
            ]
            self._launch((kernel, DTYPES[dtype], index, False, applied), grid, addresses, stream)

    def _launch(self, key: Key, grid: int, addresses: Sequence[int], stream: int) -> None:
        function, row = self._function(key), self._rows[key]
        arguments = (c_void_p * len(addresses))(*addresses)
        config = _LaunchConfig(
            (grid, 1, 1), (row.threads, 1, 1), row.shared_bytes, stream, pointer(_OVERLAPPING), int(self._overlaps)
        )  # fmt: skip
        self._call("cuLaunchKernelEx", byref(config), function, arguments, c_void_p())

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

    def _encode(self, tensor_map: TensorMap, tensor: torch.Tensor, dtype: torch.dtype) -> _Map:
        encoded = _Map()
        self._call(
            "cuTensorMapEncodeTiled", c_void_p(encoded.address), c_int(_MAP_DTYPES[dtype]), c_uint32(3),
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
