"""The kernels of plugins/kernels/cuda, compiled for the CPU (tests/support/cuda_on_cpu) and run on arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import c_int, c_int32, c_int64, c_uint8, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from acm_export.op import ACTIVATIONS
from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import Entry, entries

Array = np.ndarray[Any, Any]
HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "plugins" / "kernels" / "cuda"
REPLACED = {"device.cuh", "wgmma.cuh"}
FLAGS = (
    "-std=c++20",
    "-O2",
    "-shared",
    "-fPIC",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
)
ROWS = 128
DTYPES: dict[str, type[Any]] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class CTensorMap(ctypes.Structure):
    """``TensorMap`` of tests/support/cuda_on_cpu/device.cuh."""

    _align_ = 64
    _fields_ = (
        ("tensor", c_void_p),
        ("dims", c_int64 * 3),
        ("strides", c_int64 * 2),
        ("box", c_int32 * 3),
        ("unused", c_uint8 * 68),
    )


def entry_of(block_n: int) -> Entry:
    """Return the table's entry with tiles of this width."""
    return next(entry for entry in entries() if entry.language == "cuda" and entry.up.block_n == block_n)


@dataclass(frozen=True)
class Kernels:
    """Both kernels for one T, one tile width and one activation."""

    library: ctypes.CDLL
    entry: Entry
    dtype: type[Any]
    activation: str

    def run(
        self, feeds: dict[str, Array], counts: Array, *, blocks: int = 3, chunk: int | None = None, seed: int = 0
    ) -> Array:
        """Return y ``[tokens, D]`` for tokens with the given counts; values that are never written are NaN.

        Args:
            feeds: Arrays x, w1, b1, w2 and b2 of this dtype.
            counts: Learner counts, int32 ``[tokens]``.
            blocks: Number of multiprocessors.
            chunk: Number of sorted rows in a chunk; all by default.
            seed: Seed of the order in which copies complete.
        """
        x, w1, b1, w2, b2 = (np.ascontiguousarray(feeds[name]) for name in ("x", "w1", "b1", "w2", "b2"))
        n, (tokens, d) = len(b2) - 1, x.shape
        h, chunk = w1.shape[1] // n, chunk or tokens
        order = np.argsort(-counts, kind="stable").astype(np.int32)
        reach = np.array([np.count_nonzero(counts >= learner) for learner in range(n + 1)], np.int32)
        problem = Problem(tokens, d, h, n, 0, 2)
        y, arrivals = np.full((tokens, d), np.nan, self.dtype), np.full(1, 77, np.int32)
        for first in range(0, tokens, chunk):
            rows = min(chunk, tokens - first)
            hidden = np.full((-(-rows // ROWS) * ROWS, n * h), np.nan, self.dtype)
            tensors = {"w1": w1, "w2": w2, "hidden": hidden}
            maps = {
                name: CTensorMap(address(tensors[m.tensor]), m.dims, m.strides, m.box)
                for name, m in hopper.tensor_maps(problem, self.entry, rows).items()
            }
            sizes = (c_int * 5)(first, rows, d, h, n)
            grids = hopper.grids(problem, self.entry, rows, blocks)
            self.library.run_up(
                c_int(grids[0]),
                c_uint32(seed),
                ctypes.byref(maps["w1_map"]),
                *map(address, (x, order, reach, b1, arrivals, hidden)),
                sizes,
            )
            self.library.run_down(
                c_int(grids[1]),
                c_uint32(seed),
                ctypes.byref(maps["hidden_map"]),
                ctypes.byref(maps["w2_map"]),
                *map(address, (order, reach, b2, arrivals, y)),
                sizes,
            )
        return y


def address(array: Array) -> c_void_p:
    """Return the address of the first value."""
    return c_void_p(array.ctypes.data)


def compile_kernels(folder: Path, dtype: str, block_n: int, activation: str) -> Kernels:
    """Compile both kernels as the pack does, but for the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ 12 or later, which has C++20's barriers and _Float16")
    found = subprocess.run([compiler, "-dumpversion"], check=True, capture_output=True, text=True).stdout.strip()
    if int(found.split(".")[0]) < 12:
        pytest.skip(f"needs g++ 12 or later, which has C++20's barriers and _Float16; this is {found}")
    folder.mkdir()
    for file in [*SOURCES.iterdir(), *(HERE / "cuda_on_cpu").iterdir()]:
        if file.parent != SOURCES or file.name not in REPLACED:
            shutil.copy(file, folder)
    entry = entry_of(block_n)
    macros = {
        "ACM_BFLOAT16": str(dtype == "bfloat16").lower(),
        "ACM_BLOCK_N": block_n,
        "ACM_STAGES": entry.up.stages,
        "ACM_SHARED_BYTES": hopper.shared_bytes(entry.up),
        "ACM_ACTIVATION": ACTIVATIONS.index(activation),
    }
    library = folder / "kernels.so"
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    done = subprocess.run(
        [compiler, *FLAGS, *defined, str(folder / "kernels.cpp"), "-o", str(library)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Kernels(ctypes.CDLL(str(library)), entry, DTYPES[dtype], activation)
