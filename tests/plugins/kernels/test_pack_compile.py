"""Compiling kernels ahead of time: the table describes each kernel as compiled."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from kernel_cubins import ABI_VERSION, compiled, machine_code, ptx_parameters, stack_bytes
from kernel_processes import compiling

from acm_export.base.errors import MissingDependencyError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import hopper, nvrtc, plan
from acm_export.plugins.kernels.tiles import ARCHITECTURES, entries
from acm_export.plugins.kernels.variants import INT8_KERNELS, Variant, variants

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.kernels.compile import Compiled

HALF = [index for index, entry in enumerate(entries()) if "sm_90" in entry.archs and entry.precision == "half"]
MAIN = next(
    index
    for index in HALF
    if entries()[index].language == "triton" and entries()[index].max_tokens is None and entries()[index].alignment > 1
)
"""The entry of sm_90 for many tokens in half precision, of kernels in Triton."""

FOR_CUDA = [index for index in HALF if entries()[index].language == "cuda"]

INT8_MAIN = {
    arch: next(
        index
        for index, entry in enumerate(entries())
        if arch in entry.archs and (entry.precision, entry.max_tokens) == ("int8", None)
    )
    for arch in ("sm_87", "sm_90")
}
"""The entries of the int8 operator for many tokens."""

INT8_FEW = next(index for index, entry in enumerate(entries()) if entry.precision == "int8")

ROUTING = ("route_one_block", "count_tokens", "place_tokens")

KEYS = [
    ("up", "fp16", MAIN, True, ""),
    ("down", "bf16", MAIN, True, ""),
    ("down_split", "fp16", 0, False, ""),
    *((kernel, "", 8, False, "") for kernel in ROUTING),
    ("quantize_rows", "bf16", 16, False, ""),
    ("up_int8", "", INT8_MAIN["sm_90"], True, ""),
    ("down_int8", "fp32", INT8_MAIN["sm_90"], True, ""),
    ("down_split_int8", "fp16", INT8_FEW, False, ""),
]
POINTERS = {
    "up": ["x", "order", "reach", "w1", "b1", "hidden"],
    "down": ["hidden", "order", "counts", "reach", "w2", "b2", "y"],
    "down_split": ["hidden", "order", "counts", "reach", "w2", "b2", "partial", "arrivals", "y"],
    "route_one_block": ["gate_logits", "thresholds", "counts", "order", "reach", "arrivals"],
    "count_tokens": ["gate_logits", "thresholds", "counts", "histograms"],
    "place_tokens": ["counts", "histograms", "order", "reach", "arrivals"],
    "quantize_rows": ["x", "order", "reach", "x_mult", "q"],
    "up_int8": ["q", "reach", "w1_t", "s1", "b1", "h_mult", "h_zero", "hidden"],
    "down_int8": ["hidden", "order", "counts", "reach", "w2_t", "s2", "b2", "y"],
    "down_split_int8": ["hidden", "order", "counts", "reach", "w2_t", "s2", "b2", "partial", "arrivals", "y"],
}
"""Written out: a kernel that gets an argument more must get it in the plugin too."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Compiled]:
    """One of each kernel for sm_90."""
    return compiling(compiled, "sm_90", KEYS, tmp_path_factory.mktemp("cache"))


def signatures() -> dict[str, list[str]]:
    """Names of the run-time arguments of every kernel, from its source."""
    from acm_export.plugins.kernels import down, down_int8, quantize_rows, routing, up, up_int8

    modules = (down, down_int8, quantize_rows, routing, up, up_int8)
    found = {}
    for kernel in POINTERS:
        function = next(getattr(module, kernel) for module in modules if hasattr(module, kernel))
        parameters = inspect.signature(function.fn).parameters.values()
        of_glu = {"v1", "c1", "v1_t", "t1"} if kernel.startswith("up") else set()  # None, and so no run-time arguments
        found[kernel] = [p.name for p in parameters if "constexpr" not in str(p.annotation) and p.name not in of_glu]
    return found


def test_arguments_are_those_of_the_function_and_of_the_assembly(kernels: list[Compiled]) -> None:
    names = compiling(signatures)
    for result in kernels:
        row = result.kernel
        assert [name for name, _ in row.arguments] == names[row.kernel]
        assert [name for name, kind in row.arguments if kind == "ptr"] == POINTERS[row.kernel]
        assert ptx_parameters(result.ptx) == [kind for _, kind in row.arguments] + ["ptr", "ptr"]


def test_symbol_threads_and_key_are_those_of_the_assembly(kernels: list[Compiled]) -> None:
    by_key = {variant.key: variant for variant in variants("sm_90")}
    assert [result.kernel.key for result in kernels] == KEYS
    for result in kernels:
        row = result.kernel
        assert f".entry {row.symbol}(" in result.ptx
        assert f".reqntid {row.threads}\n" in result.ptx
        assert row.threads == 32 * by_key[row.key].warps
        assert row.arch == "sm_90"


def test_kernels_do_not_spill_and_fit_the_device(kernels: list[Compiled]) -> None:
    for result in kernels:
        assert result.stack_bytes == 0, result.kernel.key
        assert result.kernel.registers * result.kernel.threads <= 65536
        assert result.kernel.shared_bytes <= 227 << 10


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_routing_does_not_spill_for_any_number_of_choices(arch: str, tmp_path: Path) -> None:
    keys = [(kernel, "", choices, False, "") for choices, _ in plan.ROUTING_BLOCKS for kernel in ROUTING]
    for result in compiling(compiled, arch, keys, tmp_path):
        assert result.stack_bytes == 0, result.kernel.key
        # at least two blocks on a multiprocessor
        assert 2 * result.kernel.registers * result.kernel.threads <= 65536, result.kernel.key


def test_sm_90_multiplies_with_wgmma(kernels: list[Compiled]) -> None:
    for result in kernels[:2]:
        assert "wgmma.mma_async" in result.ptx
        assert "cp.async" in result.ptx


def test_margins_keep_subnormal_differences(kernels: list[Compiled]) -> None:
    route = next(result for result in kernels if result.kernel.kernel == "route_one_block")
    assert "sub.f32" in route.ptx or "sub.rn.f32" in route.ptx
    assert ".ftz" not in route.ptx


@pytest.mark.parametrize("kernel", ["down_split", "down_split_int8"])
def test_a_split_product_counts_its_piece_after_all_threads_stored_it(kernels: list[Compiled], kernel: str) -> None:
    split = next(result for result in kernels if result.kernel.kernel == kernel)
    accesses = r"(st\.global|bar\.sync|atom\.global\.gpu\.acq_rel\.add|ld\.global\.cg)\b"
    found = [match for match, _ in groupby(re.findall(accesses, split.ptx))]
    # the piece, a barrier, the count, a barrier, the pieces of other blocks past L1, y
    assert found[-6:] == [
        "st.global",
        "bar.sync",
        "atom.global.gpu.acq_rel.add",
        "bar.sync",
        "ld.global.cg",
        "st.global",
    ]


def test_rounding_to_int8_is_not_contracted(kernels: list[Compiled]) -> None:
    rows = next(result for result in kernels if result.kernel.kernel == "quantize_rows")
    assert "mul.f32" in rows.ptx or "mul.rn.f32" in rows.ptx
    assert "fma" not in rows.ptx


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "instruction", "by_byte"), [("sm_87", "IMMA", "LDS.U8"), ("sm_90", "IGMMA", "STS.U8")]
)
def test_int8_products_use_matrix_units_and_never_handle_single_bytes(
    arch: str, instruction: str, by_byte: str, tmp_path: Path
) -> None:
    keys = [("up_int8", "", INT8_MAIN[arch], True, ""), ("down_int8", "fp32", INT8_MAIN[arch], True, "")]
    for result in compiling(compiled, arch, keys, tmp_path):
        file = tmp_path / "kernel.cubin"
        file.write_bytes(result.cubin)
        code = machine_code(file)
        assert result.stack_bytes == 0, result.kernel.key
        assert f" {instruction}" in code, result.kernel.key
        assert f" {by_byte}" not in code, result.kernel.key
        if result.kernel.kernel == "down_int8":  # the other packs hidden values
            assert code.count(" PRMT") <= 4, "operands are taken apart and put together again"


def test_drivers_of_cuda_12_load_kernels_for_sm_90(kernels: list[Compiled]) -> None:
    assert {result.cubin[ABI_VERSION] for result in kernels} == {7}


def test_compiling_again_gives_the_same_bytes(kernels: list[Compiled], tmp_path: Path) -> None:
    keys = KEYS[1:3]
    again = compiling(compiled, "sm_90", keys, tmp_path)
    assert list(tmp_path.iterdir()), "compiled from another cache"
    for first, second in zip(kernels[1:3], again, strict=True):
        assert first.cubin == second.cubin
        assert first.kernel == second.kernel


HOPPER_KEYS = [
    key
    for index in FOR_CUDA
    for key in (
        (hopper.UP, "fp16", index, False, "gelu"),
        (hopper.UP, "bf16", index, False, "identity"),
        (hopper.DOWN, "fp16", index, False, ""),
        (hopper.DOWN, "bf16", index, False, ""),
    )
]


@pytest.fixture(scope="module")
def hopper_kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Compiled]:
    """Those in CUDA, compiled by NVRTC."""
    try:
        nvrtc.version()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return compiling(compiled, "sm_90", HOPPER_KEYS, tmp_path_factory.mktemp("cache"))


def arguments_in_source(kernel: str) -> list[tuple[str, str]]:
    """Name and kind of each argument of the entry point in a ``.cu`` file."""
    source = resources.files("acm_export.plugins.kernels").joinpath(f"cuda/{hopper.SOURCES[kernel]}").read_text()
    found = re.search(rf'extern "C" __global__[^;{{]*?\b{kernel}\(([^)]*)\)', source)
    assert found is not None
    kinds = {"TensorMap": "map", "int": "i32"}
    arguments = []
    for argument in found[1].split(","):
        words = argument.replace("*", " * ").split()
        arguments.append((words[-1], "ptr" if "*" in words else kinds[words[-2]]))
    return arguments


@pytest.mark.parametrize("kernel", hopper.SOURCES)
def test_arguments_of_kernels_in_cuda_are_those_of_their_source(kernel: str) -> None:
    assert [(name, hopper.kind(name)) for name in hopper.ARGUMENTS[kernel]] == arguments_in_source(kernel)


@pytest.mark.slow
def test_kernels_in_cuda_are_described_as_they_were_compiled(hopper_kernels: list[Compiled]) -> None:
    assert [result.kernel.key for result in hopper_kernels] == HOPPER_KEYS
    for result in hopper_kernels:
        row, entry = result.kernel, entries()[result.kernel.entry]
        tile = entry.up if row.kernel == hopper.UP else entry.down
        assert list(row.arguments) == arguments_in_source(row.kernel)
        assert row.symbol.encode() + b"\0" in result.cubin
        assert (row.threads, row.shared_bytes) == (32 * tile.warps, hopper.shared_bytes(tile))
        assert row.registers * row.threads <= 65536
        assert row.shared_bytes <= 227 << 10
        assert result.cubin[ABI_VERSION] == 7, "what drivers of CUDA 12 load"


@pytest.mark.slow
def test_kernels_in_cuda_multiply_with_wgmma_and_keep_their_sums_in_registers(
    hopper_kernels: list[Compiled], tmp_path: Path
) -> None:
    for result in hopper_kernels:
        file = tmp_path / "kernel.cubin"
        file.write_bytes(result.cubin)
        code = machine_code(file)
        products, waits = code.count(" HGMMA"), code.count(" WARPGROUP.DEPBAR")
        assert products > 0, result.kernel.key
        assert waits < products / 2, f"{result.kernel.key}: ptxas waits for each product before the next"
        # two words outside the products; spilled sums would take hundreds of bytes
        assert max(stack_bytes(file), result.stack_bytes) <= 8, result.kernel.key


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_launch_finds_its_kernel(arch: str) -> None:
    keys = [variant.key for variant in variants(arch)]
    assert len(keys) == len(set(keys))
    for index, entry in enumerate(entries()):
        for dtype in {"half": ("fp16", "bf16")}.get(entry.precision, (entry.precision,)):
            if entry.language == "cuda":
                wanted = {(hopper.UP, dtype, index, False, activation) for activation in ACTIVATIONS}
                wanted |= {(hopper.DOWN, dtype, index, False, "")}
            elif entry.precision == "int8":
                product = "down_split_int8" if entry.split else "down_int8"
                wanted = {("up_int8", "", index, False, "")}
                wanted |= {(product, of_y, index, False, "") for of_y in ("fp32", "fp16", "bf16")}
                wanted |= {("up_int8_glu", "", index, False, "")}
            else:
                products = ("up", "up_glu", "down_split" if entry.split else "down")
                wanted = {(kernel, dtype, index, False, "") for kernel in products}
            assert (wanted <= set(keys)) == (arch in entry.archs)
    for choices, _ in plan.ROUTING_BLOCKS:
        assert {(kernel, "", choices, False, "") for kernel in ROUTING} <= set(keys)
    for dtype in ("fp32", "fp16", "bf16"):
        assert {("quantize_rows", dtype, alignment, False, "") for alignment in (16, 1)} <= set(keys)


def test_half_precision_and_int8_have_kernels_without_masks_where_widths_allow_them() -> None:
    even = [variant for variant in variants("sm_80") if variant.even]
    assert {entries()[variant.entry].precision for variant in even} == {"half", "int8"}
    assert {variant.dtype for variant in even if variant.kernel not in INT8_KERNELS} == {"fp16", "bf16"}
    assert all(_twin(variant) for variant in even)


def _twin(variant: Variant) -> bool:
    kernel, dtype, entry, _, activation = variant.key
    return variant.aligned and (kernel, dtype, entry, False, activation) in {other.key for other in variants("sm_80")}
