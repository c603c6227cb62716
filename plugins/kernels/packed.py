"""Run kernels of the pack on PyTorch tensors. Nothing is compiled, and launches are prepared once per shape.

The C++ plugin launches the same kernels with the same arguments (plugins/tensorrt/core/launch.cpp).
"""

from __future__ import annotations

import ctypes
import logging
import threading
from ctypes import addressof, c_int, c_void_p
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import grids, hopper, plan
from acm_export.plugins.kernels.launcher import LIBRARY, Launch, Launcher
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.tiles import entries
from acm_export.plugins.kernels.variants import ALIGNMENTS, GLU, has_kernels_without_masks, has_ups_without_masks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from acm_export.plugins.kernels.hopper import TensorMap
    from acm_export.plugins.kernels.launcher import EncodedMap
    from acm_export.plugins.kernels.pack import Kernel, Pack
    from acm_export.plugins.kernels.plan import Problem
    from acm_export.plugins.kernels.tiles import Entry
    from acm_export.plugins.kernels.variants import Key

_log = logging.getLogger(__name__)

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}

_MOST_CALLS, _MOST_MAPS = 1024, 4096
"""Prepared calls and encoded maps that are kept."""

_NO_SCRATCH = c_void_p()
"""Two more arguments of Triton's kernels: pointers to scratch memory that they do not use. CUDA kernels ignore them."""


def allocate(size: int, device: torch.device) -> torch.Tensor:
    """Allocate the workspace of a call; ``size`` is in bytes."""
    return torch.empty(size, dtype=torch.uint8, device=device)


@cache
def packed_kernels(device: torch.device, arch: str) -> PackedKernels | None:
    """The kernels of the installed pack for a GPU; None, with a warning, if the pack cannot be used.

    Args:
        device: A CUDA device.
        arch: Architecture of the device.
    """
    try:
        return PackedKernels(read_pack(), arch, torch.cuda.get_device_properties(device).multi_processor_count)
    except KernelError as error:
        _log.warning("%s; using Triton's kernels instead, which are slower on %s (%s)", error, arch, error.hint)
        return None


class PackedKernels:
    """Kernels of one architecture, each loaded when it is first launched.

    Args:
        pack: Pack with the kernels.
        arch: GPU architecture, as in ``sm_90``.
        multiprocessors: Number of multiprocessors of the GPU.
        library: Name of the CUDA driver's library; tests pass a double.

    Raises:
        KernelError: No CUDA driver was found, or it is older than CUDA 12.
    """

    def __init__(self, pack: Pack, arch: str, multiprocessors: int, library: str = LIBRARY) -> None:
        self._launcher = Launcher(library)
        self._pack = pack
        self._rows: dict[Key, Kernel] = {kernel.key: kernel for kernel in pack.kernels if kernel.arch == arch}
        self._functions: dict[Key, c_void_p] = {}
        self._lock = threading.Lock()
        self._calls: dict[tuple[Problem, int, str, str, torch.dtype], _Call] = {}
        self._maps: dict[tuple[int, int], EncodedMap] = {}
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
        """Enqueue routing, then both GEMMs for each chunk of sorted rows.

        Args:
            problem: Shapes.
            entry: Entry of the tile table.
            activation: One of :data:`acm_export.op.ACTIVATIONS`.
            precision: One of :data:`acm_export.plugins.kernels.tiles.PRECISIONS`.
            tensors: Inputs and outputs by the names of the kernels' arguments. The workspace is allocated here.
            stream: Handle of the CUDA stream.

        Raises:
            KernelError: The pack has no such kernel, or the driver fails.
        """
        with self._lock:
            dtype = tensors["x"].dtype
            key = problem, entries().index(entry), activation, precision, dtype
            call = self._calls.get(key)
            if call is None:
                if len(self._calls) >= _MOST_CALLS:
                    self._calls.clear()
                    self._maps.clear()  # their keys are identities of maps in the calls
                call = self._calls[key] = self._prepare(problem, entry, *key[1:])
            workspace = allocate(call.offsets["size"], tensors["x"].device)
            start = workspace.data_ptr()

            def address(name: str) -> int:
                return start + call.offsets[name] if name in call.offsets else tensors[name].data_ptr()

            for name, slot in call.slots.items():
                slot.value = address(name)
            if len(self._maps) + len(call.maps) > _MOST_MAPS:  # before the launches below, which read these maps
                self._maps.clear()
            for arguments, position, tensor_map in call.maps:
                arguments[position] = self._encoded(tensor_map, address(tensor_map.tensor), dtype)
            for launch in call.launches:
                self._launcher.launch(launch, stream)

    def _prepare(
        self, problem: Problem, entry: Entry, index: int, activation: str, precision: str, dtype: torch.dtype
    ) -> _Call:
        """Prepare all launches for a shape; each call fills in the addresses."""
        call, routing = _Call(asdict(plan.workspace(problem))), plan.routing(problem)
        numbers = {
            "num_tokens": problem.tokens,
            "num_choices": problem.num_choices,
            "min_learners": problem.min_learners,
            "num_pieces": routing.num_pieces,
            "model_dim": problem.model_dim,
            "hidden_dim": problem.hidden_dim,
            "num_learners": problem.num_learners,
            "activation": ACTIVATIONS.index(activation),
            "num_arrivals": grids.num_arrivals(problem, entry),
        }
        kernels = ("route_one_block",) if routing.num_blocks == 1 else ("count_tokens", "place_tokens")
        for kernel in kernels:
            self._add(call, (kernel, "", routing.choices, False, ""), (routing.num_blocks, 1), numbers)
        for first, rows in problem.chunks():
            numbers = numbers | {"first_row": first, "num_rows": rows}
            if entry.language == "cuda":
                maps = hopper.tensor_maps(problem, entry, rows)
                up, down = hopper.grids(problem, entry, rows, self.multiprocessors)
                self._add(call, (hopper.UP, DTYPES[dtype], index, False, activation), (up, 1), numbers, maps)
                self._add(call, (hopper.DOWN, DTYPES[dtype], index, False, ""), (down, 1), numbers, maps)
            else:
                for key, grid in _triton_launches(problem, entry, index, precision, dtype, rows):
                    self._add(call, key, grid, numbers)
        return call

    def _add(
        self,
        call: _Call,
        key: Key,
        grid: tuple[int, int],
        numbers: Mapping[str, int],
        maps: Mapping[str, TensorMap] | None = None,
    ) -> None:
        """Add a launch. Kernels that take tensor maps may start before the previous kernel has ended."""
        function, row = self._function(key), self._rows[key]
        arguments = (c_void_p * (len(row.arguments) + 2))()
        for position, (name, kind) in enumerate(row.arguments):
            if kind == "map":
                call.maps.append((arguments, position, (maps or {})[name]))
            elif kind == "ptr":
                arguments[position] = addressof(call.slots.setdefault(name, c_void_p()))
            else:
                call.numbers.append(c_int(numbers[name]))
                arguments[position] = addressof(call.numbers[-1])
        arguments[-2] = arguments[-1] = addressof(_NO_SCRATCH)
        config = self._launcher.config(grid, row.threads, row.shared_bytes, early=maps is not None)
        call.launches.append(Launch(function, config, arguments))

    def _function(self, key: Key) -> c_void_p:
        if key not in self._functions:
            if key not in self._rows:
                raise KernelError(f"the kernel pack has no kernel {key}")
            row = self._rows[key]
            self._functions[key] = self._launcher.load(self._pack.cubin(row), row.symbol, row.shared_bytes)
        return self._functions[key]

    def _encoded(self, tensor_map: TensorMap, address: int, dtype: torch.dtype) -> int:
        """Address of an encoded map. Maps are kept, because tensors are often at the same address again."""
        key = id(tensor_map), address
        if key not in self._maps:
            self._maps[key] = self._launcher.encode(tensor_map, address, dtype)
        return self._maps[key].address


def _triton_launches(
    problem: Problem, entry: Entry, index: int, precision: str, dtype: torch.dtype, rows: int
) -> Iterator[tuple[Key, tuple[int, int]]]:
    """Key and grid of each of Triton's kernels for a chunk after routing, in order."""
    even_up, even_down = grids.even(problem, entry)
    even_up = even_up and has_ups_without_masks(entry, glu=problem.glu)
    even_down = even_down and has_kernels_without_masks(entry)
    name = precision if precision == "tf32" else DTYPES[dtype]
    suffix = ""
    if precision == "int8":
        suffix = "_int8"
        alignment = next(each for each in ALIGNMENTS if each <= entry.alignment)
        yield ("quantize_rows", name, alignment, False, ""), grids.quantize_grid(problem, rows)
    up, down = grids.up_grid(problem, entry, rows), grids.down_grid(problem, entry, rows)
    yield (f"up{suffix}{GLU if problem.glu else ''}", "" if suffix else name, index, even_up, ""), (up, 1)
    if entry.split:
        yield ("down_split" + suffix, name, index, even_down, ""), (down, problem.num_learners * entry.split)
    else:
        yield ("down" + suffix, name, index, even_down, ""), (down, 1)


@dataclass
class _Call:
    """The launches of the op for one shape; each call fills in the addresses and the stream.

    Args:
        offsets: Byte offsets of the arrays in the workspace by name, and its ``size``.
        launches: Launches in order.
        slots: Address of each tensor; the launches point to these slots.
        numbers: Integer arguments; the launches point to them.
        maps: For each tensor map: arguments of the launch, its position among them, and the map.
    """

    offsets: dict[str, int]
    launches: list[Launch] = field(default_factory=list)
    slots: dict[str, c_void_p] = field(default_factory=dict)
    numbers: list[c_int] = field(default_factory=list)
    maps: list[tuple[ctypes.Array[c_void_p], int, TensorMap]] = field(default_factory=list)
