"""A kernel pack without kernels: the table is the real one, each cubin is a text that the fake driver reads.

So the plugin's own logic is tested with no Triton, no compiled pack and no GPU.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels.pack import CUBINS, TABLE, Kernel, Pack, source_digest
from acm_export.plugins.kernels.tiles import ARCHITECTURES
from acm_export.plugins.kernels.variants import Variant, variants

if TYPE_CHECKING:
    from pathlib import Path

_SOURCES = ("routing.py", "up.py", "down.py", "quantize_rows.py", "up_int8.py", "down_int8.py")
_OF_GLU = {"up": ("v1", "c1"), "up_int8": ("v1_t", "t1", "c1")}
"""Arguments of GEMM 1 that its kernels have only for GLU learners."""

_POINTERS = {
    "v1",
    "c1",
    "v1_t",
    "t1",
    "x",
    "gate_logits",
    "thresholds",
    "w1",
    "b1",
    "w2",
    "b2",
    "y",
    "counts",
    "order",
    "reach",
    "histograms",
    "arrivals",
    "hidden",
    "partial",
    "x_mult",
    "w1_t",
    "s1",
    "h_mult",
    "h_zero",
    "w2_t",
    "s2",
    "q",
}


@dataclass(frozen=True)
class Identity:
    """Which kernel a fake cubin is."""

    arch: str
    kernel: str
    dtype: str
    entry: int
    even: bool
    activation: str

    def __str__(self) -> str:
        return f"{self.arch},{self.kernel},{self.dtype},{self.entry},{int(self.even)},{self.activation}"

    @staticmethod
    def parse(text: str) -> Identity:
        arch, kernel, dtype, entry, even, activation = text.split(",")
        return Identity(arch, kernel, dtype, int(entry), even == "1", activation)


@cache
def argument_names() -> dict[str, tuple[str, ...]]:
    """Run-time arguments of each kernel; of Triton's kernels, those in their source."""
    folder = resources.files("acm_export.plugins.kernels")
    functions = [
        node
        for name in _SOURCES
        for node in ast.parse(folder.joinpath(name).read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    names = {
        function.name: tuple(argument.arg for argument in function.args.args if argument.annotation is None)
        for function in functions
    }
    glu = {f"{name}_glu": names[name] for name in _OF_GLU}
    plain = {name: tuple(each for each in names[name] if each not in left_out) for name, left_out in _OF_GLU.items()}
    return names | glu | plain | hopper.ARGUMENTS


def argument_kind(kernel: str, name: str) -> str:
    """``ptr``, ``i32`` or ``map``."""
    if kernel in hopper.SOURCES:
        return hopper.kind(name)
    return "ptr" if name in _POINTERS else "i32"


def write_fake_pack(folder: Path, architectures: tuple[str, ...] = ARCHITECTURES) -> None:
    """Write a pack that `read_pack` takes."""
    rows, blob = [], b""
    for arch in architectures:
        for variant in variants(arch):
            kernel, cubin = _fake_kernel(arch, variant, len(blob))
            rows.append(kernel)
            blob += cubin
    pack = Pack(tuple(rows), "0.0.0", "12.9", source_digest(), blob)
    tiles = json.loads(resources.files("acm_export.plugins.kernels").joinpath("tiles.json").read_text())
    folder.mkdir()
    (folder / TABLE).write_text(json.dumps(pack.to_json(tiles)))
    (folder / CUBINS).write_bytes(blob)


def _fake_kernel(arch: str, variant: Variant, offset: int) -> tuple[Kernel, bytes]:
    kinds = tuple((name, argument_kind(variant.kernel, name)) for name in argument_names()[variant.kernel])
    letters = "".join(kind[0] for _, kind in kinds)
    cubin = f"{Identity(arch, *variant.key)} {letters}\0".encode()
    threads, shared = 32 * variant.warps, variant.constants.get("ACM_SHARED_BYTES", 16384 * variant.stages)
    assert isinstance(shared, int)
    return Kernel(arch, *variant.key, variant.kernel, threads, shared, 32, kinds, offset, len(cubin), ""), cubin
