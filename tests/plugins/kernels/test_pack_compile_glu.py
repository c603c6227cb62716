"""The kernels of gated FFNs, compiled ahead of time: arguments, registers, memory and matrix units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel_cubins import compiled, machine_code, ptx_parameters
from kernel_processes import compiling

from acm_export.plugins.kernels.tiles import ARCHITECTURES, entries
from acm_export.plugins.kernels.variants import variants

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.kernels.compile import Compiled
    from acm_export.plugins.kernels.variants import Key

POINTERS = {
    "up_glu": ["x", "order", "reach", "w1", "b1", "v1", "c1", "hidden"],
    "up_int8_glu": ["q", "reach", "w1_t", "s1", "b1", "v1_t", "t1", "c1", "h_mult", "h_zero", "hidden"],
}
"""Written out: a kernel that gets an argument more must get it in the plugin too."""

NUMBERS = ["first_row", "num_rows", "model_dim", "hidden_dim", "num_learners", "activation"]

SHARED_KIB = {"sm_80": 163, "sm_87": 163, "sm_90": 227, "sm_110": 227}
"""Most shared memory of a block, by CUDA's programming guide."""

INSTRUCTIONS = {"sm_80": ("HMMA", "IMMA"), "sm_87": ("HMMA", "IMMA"), "sm_90": ("HGMMA", "IGMMA")} | {
    "sm_110": ("UTCHMMA", "IMMA")
}
"""Matrix products in half precision and in int8."""


def main_keys(arch: str) -> list[Key]:
    """Kernels for many tokens, without masks: in float16 and in int8."""
    return [
        variant.key
        for variant in variants(arch)
        if variant.kernel in POINTERS
        and variant.even
        and variant.dtype in ("fp16", "")
        and entries()[variant.entry].max_tokens is None
    ]


def check(result: Compiled, arch: str) -> None:
    row = result.kernel
    assert [name for name, kind in row.arguments if kind == "ptr"] == POINTERS[row.kernel]
    assert [name for name, kind in row.arguments if kind == "i32"] == NUMBERS
    assert ptx_parameters(result.ptx) == [kind for _, kind in row.arguments] + ["ptr", "ptr"]
    assert f".entry {row.symbol}(" in result.ptx
    assert result.stack_bytes == 0, row.key
    assert row.registers * row.threads <= 65536, row.key
    assert row.shared_bytes <= SHARED_KIB[arch] << 10, row.key


@pytest.mark.parametrize("arch", ["sm_80", "sm_87", "sm_90", "sm_110"])
def test_main_kernels_hold_both_sums_in_registers_and_use_the_matrix_units(arch: str, tmp_path: Path) -> None:
    keys = main_keys(arch)
    assert [key[0] for key in keys] == ["up_glu", "up_int8_glu"]
    for result, instruction in zip(compiling(compiled, arch, keys, tmp_path), INSTRUCTIONS[arch], strict=True):
        check(result, arch)
        file = tmp_path / "kernel.cubin"
        file.write_bytes(result.cubin)
        assert f" {instruction}" in machine_code(file), result.kernel.key


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_87", "sm_90", "sm_110"])
def test_no_kernel_spills(arch: str, tmp_path: Path) -> None:
    keys = [variant.key for variant in variants(arch) if variant.kernel in POINTERS]
    for result in compiling(compiled, arch, keys, tmp_path):
        check(result, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_only_gemm_1_has_kernels_of_its_own_without_masks_for_many_tokens_alone(arch: str) -> None:
    found = [variant for variant in variants(arch) if variant.kernel.endswith("_glu")]
    assert {variant.kernel for variant in found} == set(POINTERS)
    assert {variant.function for variant in found} == {"up", "up_int8"}
    for variant in found:
        entry = entries()[variant.entry]
        assert entry.glu is not None
        assert variant.constants["BLOCK_N"] == entry.glu.block_n
        assert not (variant.even and entry.max_tokens)
    masked = {variant.key[:3] for variant in found if not variant.even}
    assert {variant.key[:3] for variant in found} == masked, "any shape can run"
