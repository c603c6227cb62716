"""The pack of the package: complete, small enough, and without spilled registers.

Building it takes minutes; where it has not been built from these sources, these tests are skipped.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest
from kernel_cubins import ABI_VERSION, machine_code, stack_bytes

from acm_export.base.errors import KernelError
from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels.pack import Kernel, Pack, read_pack
from acm_export.plugins.kernels.tiles import ARCHITECTURES, entries
from acm_export.plugins.kernels.variants import GLU, INT8_KERNELS, variants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

STACK_BYTES = {
    "up": 0,
    "up_glu": 0,
    "down": 0,
    "down_split": 0,
    "quantize_rows": 0,
    "up_int8": 0,
    "up_int8_glu": 0,
    "down_int8": 0,
    "down_split_int8": 0,
    "up_hopper": 8,
    "down_hopper": 8,
}
"""Most bytes of stack that a matrix product may have. Those for Hopper keep a word there that no iteration of the loop
over K touches: their multiplying threads hold 232 registers, as many as a multiprocessor has for them."""


@pytest.fixture(scope="module")
def pack() -> Pack:
    """The pack of the installed package."""
    try:
        return read_pack()
    except KernelError as error:
        if "is damaged" in str(error) or "is broken" in str(error):
            raise
        pytest.skip(f"{error}; {error.hint}")


def ask(pack: Pack, kernels: Sequence[Kernel], question: Callable[[Path], T], folder: Path) -> dict[str, T]:
    """Apply a function to each cubin, by architecture and key."""

    def answer(kernel: Kernel) -> tuple[str, T]:
        file = folder / f"{pack.kernels.index(kernel)}.cubin"
        file.write_bytes(pack.cubin(kernel))
        return f"{kernel.arch} {kernel.key}", question(file)

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(answer, kernels))


def test_every_variant_of_every_architecture_is_there_once(pack: Pack) -> None:
    assert pack.architectures == list(ARCHITECTURES)
    for arch in ARCHITECTURES:
        held = [kernel.key for kernel in pack.kernels if kernel.arch == arch]
        assert sorted(held) == sorted(variant.key for variant in variants(arch))


def test_the_pack_is_at_most_20_mb_and_some_more_for_int8_and_for_gated_ffns(pack: Pack) -> None:
    glu = sum(kernel.size for kernel in pack.kernels if kernel.kernel.endswith(GLU))
    int8 = sum(kernel.size for kernel in pack.kernels if kernel.kernel in INT8_KERNELS and GLU not in kernel.kernel)
    assert glu <= 7e6
    assert int8 <= 10e6
    assert len(pack.cubins) - int8 - glu <= 20e6


def test_cubins_are_those_of_their_rows(pack: Pack) -> None:
    end = 0
    for kernel in pack.kernels:
        assert kernel.offset == end
        end += kernel.size
        cubin = pack.cubin(kernel)
        assert cubin[:4] == b"\x7fELF"
        assert hashlib.sha256(cubin).hexdigest() == kernel.sha256
        assert kernel.symbol.encode() + b"\0" in cubin
    assert end == len(pack.cubins)


def test_drivers_of_cuda_12_load_kernels_for_sm_8x_and_sm_90(pack: Pack) -> None:
    older = [kernel for kernel in pack.kernels if int(kernel.arch[3:]) <= 90]
    assert {pack.cubin(kernel)[ABI_VERSION] for kernel in older} == {7}


def test_every_kernel_can_be_launched(pack: Pack) -> None:
    shared = {"sm_80": 163, "sm_87": 163, "sm_90": 227, "sm_100": 227, "sm_103": 227, "sm_110": 227}
    for kernel in pack.kernels:
        assert kernel.shared_bytes <= shared.get(kernel.arch, 99) << 10
        assert kernel.registers * kernel.threads <= 65536


@pytest.mark.slow
def test_no_matrix_product_spills_registers(pack: Pack, tmp_path: Path) -> None:
    for name, most in STACK_BYTES.items():
        sizes = ask(pack, [kernel for kernel in pack.kernels if kernel.kernel == name], stack_bytes, tmp_path)
        assert {kernel: size for kernel, size in sizes.items() if size > most} == {}


def main_products(pack: Pack, precision: str, *architectures: str) -> list[Kernel]:
    """Products for many tokens, without masks."""
    return [
        kernel
        for kernel in pack.kernels
        if kernel.arch in architectures
        and kernel.even
        and (entries()[kernel.entry].precision, entries()[kernel.entry].max_tokens) == (precision, None)
    ]


@pytest.mark.slow
def test_products_for_hopper_use_its_matrix_units(pack: Pack, tmp_path: Path) -> None:
    kernels = [kernel for kernel in pack.kernels if kernel.kernel in hopper.SOURCES]
    assert {(kernel.arch, kernel.kernel) for kernel in kernels} == {("sm_90", kernel) for kernel in hopper.SOURCES}
    found = ask(pack, kernels, lambda file: " HGMMA" in machine_code(file), tmp_path)
    assert [name for name, used in found.items() if not used] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "architectures", "instruction"),
    [
        ("half", ("sm_90",), "HGMMA"),
        ("half", ("sm_100", "sm_103", "sm_110"), "UTCHMMA"),
        ("half", ("sm_80", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121"), "HMMA"),
        ("int8", ("sm_90",), "IGMMA"),
        ("int8", ("sm_100",), "UTCIMMA"),
        ("int8", ("sm_80", "sm_86", "sm_87", "sm_89", "sm_103", "sm_110", "sm_120", "sm_121"), "IMMA"),
    ],
)
def test_main_products_use_the_matrix_units_of_their_architecture(
    pack: Pack, precision: str, architectures: tuple[str, ...], instruction: str, tmp_path: Path
) -> None:
    kernels = main_products(pack, precision, *architectures)
    # GEMM 1, that of GLUs, and GEMM 2 in two types; or the first two once, and GEMM 2 of the int8 operators in three
    assert len(kernels) == {"half": 6, "int8": 5}[precision] * len(architectures)
    found = ask(pack, kernels, lambda file: f" {instruction}" in machine_code(file), tmp_path)
    assert [name for name, used in found.items() if not used] == []
