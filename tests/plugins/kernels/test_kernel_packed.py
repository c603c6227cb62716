"""Launching kernels of the pack from PyTorch, on the fake driver: launches, arguments, maps and failures."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from plugin_build import compile_fake_driver
from plugin_core import Driver, EncodedMap
from plugin_pack import argument_names

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import hopper
from acm_export.plugins.kernels import packed as packed_module
from acm_export.plugins.kernels.launcher import LaunchAttribute, LaunchConfig
from acm_export.plugins.kernels.pack import Pack, read_pack
from acm_export.plugins.kernels.packed import PackedKernels
from acm_export.plugins.kernels.plan import Problem, workspace
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Launch

pytest_plugins = ["plugin_fixtures"]

FOR_CUDA = [index for index, entry in enumerate(entries()) if entry.language == "cuda"]
TOKENS, MULTIPROCESSORS = 1000, 132


@pytest.fixture(scope="module")
def pack(fake_pack: Path) -> Pack:
    return read_pack(fake_pack)


@pytest.fixture
def gpu(fake_driver: Path) -> Driver:
    fake = Driver(fake_driver)
    fake.reset()
    return fake


@pytest.fixture
def packed(pack: Pack, fake_driver: Path) -> PackedKernels:
    return PackedKernels(pack, "sm_90", MULTIPROCESSORS, library=str(fake_driver))


class Call:
    """Tensors of one call, which hold nothing, and what runs on them."""

    def __init__(
        self, index: int, dtype: torch.dtype = torch.float16, *, tokens: int = TOKENS, offset: int = 0
    ) -> None:
        self.entry = entries()[index]
        d, h, n = 768, 1536, 4
        self.problem = Problem(tokens, d, h, n, 0, 2)
        self.workspaces: list[torch.Tensor] = []
        shapes = {
            "x": (tokens, d),
            "w1": (d, n * h),
            "b1": (n * h,),
            "w2": (n * h, d),
            "b2": (n + 1, d),
            "y": (tokens, d),
        }
        self.tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        self.tensors |= {name: torch.empty(tokens) for name in ("gate_logits", "thresholds")}
        self.tensors["counts"] = torch.empty(tokens, dtype=torch.int32)
        if offset:
            self.tensors["w1"] = self.tensors["w1"].view(-1)[offset:]

    def run(self, packed: PackedKernels, activation: str = "gelu") -> None:
        with patch.object(packed_module, "allocate", self._allocate):
            packed.run(self.problem, self.entry, activation, "half", self.tensors, stream=77)

    def _allocate(self, size: int, _device: torch.device) -> torch.Tensor:
        self.workspaces.append(torch.empty(size, dtype=torch.uint8))
        return self.workspaces[-1]

    def placed(self, address: int) -> tuple[str, int]:
        starts = {tensor.data_ptr(): name for name, tensor in self.tensors.items()}
        layout = asdict(workspace(self.problem))
        del layout["size"]
        for memory in self.workspaces:
            starts |= {memory.data_ptr() + offset: name for name, offset in layout.items()}
        return starts[address], 0

    def launches(self, gpu: Driver) -> list[Launch]:
        """Launches of the GEMMs since the last call."""
        return [run for run in gpu.launches(self.placed) if run.kernel.kernel in hopper.SOURCES]


def pointers_of(launch: Launch) -> dict[str, Any]:
    return {name: value for name, value in launch.arguments.items() if isinstance(value, tuple)}


@pytest.mark.parametrize("index", FOR_CUDA)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_both_gemms_are_launched_with_their_tensors_and_sizes(
    packed: PackedKernels, gpu: Driver, index: int, dtype: torch.dtype
) -> None:
    call = Call(index, dtype, tokens=700)
    call.run(packed)
    up, down = call.launches(gpu)
    assert (up.kernel.kernel, up.kernel.activation) == (hopper.UP, "gelu")
    assert (down.kernel.kernel, down.kernel.activation) == (hopper.DOWN, "")
    sizes = {"first_row": 0, "num_rows": 700, "model_dim": 768, "hidden_dim": 1536, "num_learners": 4}
    for launch, tile in ((up, call.entry.up), (down, call.entry.down)):
        assert (launch.kernel.arch, launch.kernel.entry) == ("sm_90", index)
        assert launch.kernel.dtype == {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
        assert (launch.block, launch.shared) == (32 * tile.warps, hopper.shared_bytes(tile))
        assert launch.stream == 77
        assert tuple(launch.arguments) == hopper.ARGUMENTS[launch.kernel.kernel]
        assert sizes.items() <= launch.arguments.items()
        pointers = pointers_of(launch)
        assert pointers == {name: (name, 0) for name in pointers}
        assert {*pointers, *sizes} == {name for name in launch.arguments if not name.endswith("_map")}


@pytest.mark.parametrize("index", FOR_CUDA)
@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_maps_have_the_addresses_of_tensors_and_the_boxes_of_copies(
    packed: PackedKernels, gpu: Driver, index: int, dtype: torch.dtype, name: str
) -> None:
    call = Call(index, dtype, tokens=700)
    call.run(packed)
    up, down = call.launches(gpu)
    d, h, n = 768, 1536, 4
    assert up.arguments["w1_map"] == EncodedMap(name, ("w1", 0), (h, n, d), (2 * h, 2 * n * h), (64, 1, 64))
    assert down.arguments["hidden_map"] == EncodedMap(
        name, ("hidden", 0), (h, n, 768), (2 * h, 2 * n * h), (64, 1, 128)
    )
    assert down.arguments["w2_map"] == EncodedMap(name, ("w2", 0), (d, h, n), (2 * d, 2 * h * d), (64, 64, 1))


@pytest.mark.parametrize(("rows", "grids"), [(1, (32, 4)), (700, (132, 24)), (1000, (132, 32))])
def test_there_is_a_block_for_each_tile_up_to_the_number_of_multiprocessors(
    packed: PackedKernels, gpu: Driver, rows: int, grids: tuple[int, int]
) -> None:
    call = Call(next(index for index in FOR_CUDA if entries()[index].up.block_n == 192), tokens=rows)
    call.run(packed)
    assert [launch.grid for launch in call.launches(gpu)] == [(blocks, 1) for blocks in grids]


def test_each_activation_has_a_kernel_that_is_loaded_once(packed: PackedKernels, gpu: Driver) -> None:
    call, before = Call(FOR_CUDA[0]), gpu.num_modules
    for _ in range(2):
        for activation in ACTIVATIONS:
            call.run(packed, activation)
    assert [launch.kernel.activation for launch in call.launches(gpu)[::2]] == list(ACTIVATIONS) * 2
    routing = 2
    assert gpu.num_modules - before == routing + len(ACTIVATIONS) + 1


def test_calls_of_one_shape_share_their_launches(packed: PackedKernels, gpu: Driver) -> None:
    first, second = Call(FOR_CUDA[0]), Call(FOR_CUDA[0])
    for call in (first, second, first):
        call.run(packed)
        up, down = call.launches(gpu)
        pointers = pointers_of(up) | pointers_of(down)
        assert pointers == {name: (name, 0) for name in pointers}
        assert up.arguments["w1_map"].address == ("w1", 0)
        assert down.arguments["hidden_map"].address == ("hidden", 0)


def test_prepared_calls_and_maps_are_bounded(
    packed: PackedKernels, gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "_MOST_CALLS", 2)
    monkeypatch.setattr(packed_module, "_MOST_MAPS", 3)
    for tokens in (600, 700, 800, 600, 700):
        call = Call(FOR_CUDA[0], tokens=tokens)
        call.run(packed)
        up, down = call.launches(gpu)
        assert up.arguments["num_rows"] == tokens
        assert down.arguments["w2_map"].address == ("w2", 0)
        assert len(packed._calls) <= 2
        assert len(packed._maps) <= 3


def test_threads_do_not_mix_their_tensors(packed: PackedKernels, gpu: Driver) -> None:
    calls = [Call(FOR_CUDA[0]) for _ in range(4)]

    def run(i: int) -> None:
        call = calls[i % len(calls)]
        packed.run(call.problem, call.entry, "gelu", "half", call.tensors, stream=77)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(200)))
    starts = {tensor.data_ptr(): i for i, call in enumerate(calls) for tensor in call.tensors.values()}
    for launch in gpu.launches(lambda address: (str(starts.get(address, "workspace")), 0)):
        owners = {value[0] for value in pointers_of(launch).values()} - {"workspace"}
        assert len(owners) == 1, launch


class Int8Call(Call):
    """Tensors of one call of the int8 operator."""

    def __init__(self, index: int, dtype: torch.dtype, *, tokens: int, widths: tuple[int, int]) -> None:
        super().__init__(index, dtype, tokens=tokens)
        (d, h), n = widths, 4
        self.problem = Problem(tokens, d, h, n, 0, 1)
        for name in ("w1", "w2"):
            del self.tensors[name]
        self.tensors |= {name: torch.empty(n * h * d, dtype=torch.int8) for name in ("w1_t", "w2_t")}
        self.tensors |= {name: torch.empty(n * max(d, h)) for name in ("x_mult", "s1", "s2", "h_mult")}
        self.tensors["h_zero"] = torch.empty(n, dtype=torch.int8)

    def run(self, packed: PackedKernels, activation: str = "gelu") -> None:
        with patch.object(packed_module, "allocate", self._allocate):
            packed.run(self.problem, self.entry, activation, "int8", self.tensors, stream=77)


INT8 = [index for index, entry in enumerate(entries()) if entry.precision == "int8" and "sm_90" in entry.archs]


@pytest.mark.parametrize("widths", [(768, 768), (768, 784)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("index", INT8)
def test_the_int8_operator_rounds_x_before_both_gemms(
    packed: PackedKernels, gpu: Driver, index: int, dtype: torch.dtype, widths: tuple[int, int]
) -> None:
    entry = entries()[index]
    tokens = entry.max_tokens or 700
    call = Int8Call(index, dtype, tokens=tokens, widths=widths)
    call.run(packed, "silu")
    *routing, quantize, up, down = gpu.launches(call.placed)
    assert {launch.kernel.kernel for launch in routing} <= {"route_one_block", "count_tokens", "place_tokens"}
    t = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    even = entry.alignment > 1 and widths[1] == 768
    found = [(run.kernel.kernel, run.kernel.dtype, run.kernel.entry, run.kernel.even) for run in (quantize, up, down)]
    assert found == [
        ("quantize_rows", t, 16 if entry.alignment > 1 else 1, False),
        ("up_int8", "", index, even),
        ("down_split_int8" if entry.split else "down_int8", t, index, even),
    ]
    sizes = {"num_rows": tokens, "model_dim": widths[0]}
    for launch in (quantize, up, down):
        assert tuple(launch.arguments) == argument_names()[launch.kernel.kernel]
        assert sizes.items() <= launch.arguments.items()
        pointers = pointers_of(launch)
        assert pointers == {name: (name, 0) for name in pointers}
    assert up.arguments["activation"] == ACTIVATIONS.index("silu")
    assert quantize.grid == (-(-tokens // 8), 3)
    assert up.grid == (-(-tokens // entry.up.block_m) * 4 * -(-widths[1] // entry.up.block_n), 1)
    tiles = -(-tokens // entry.down.block_m) * -(-widths[0] // entry.down.block_n)
    assert down.grid == (tiles, 4 * entry.split if entry.split else 1)


def test_structures_are_laid_out_as_in_the_header_of_cuda(tmp_path: Path) -> None:
    triton = find_spec("triton")
    compiler = shutil.which("cc")
    if triton is None or triton.origin is None or compiler is None:
        pytest.skip("needs a C compiler and Triton, which brings cuda.h")
    names = {
        "grid": "gridDimX",
        "block": "blockDimX",
        "shared_bytes": "sharedMemBytes",
        "stream": "hStream",
        "attributes": "attrs",
        "num_attributes": "numAttrs",
    }
    asked = [f"sizeof({name})" for name in ("CUlaunchAttribute", "CUlaunchConfig")]
    asked += ["offsetof(CUlaunchAttribute, value)", *(f"offsetof(CUlaunchConfig, {name})" for name in names.values())]
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    prints = "".join(f'printf("%zu\\n", (size_t){what});' for what in asked)
    source.write_text(f"#include <cuda.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{{prints}}}\n")
    include = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    subprocess.run([compiler, f"-I{include}", str(source), "-o", str(program)], check=True)
    found = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
    attribute, config = LaunchAttribute, LaunchConfig
    ours = [ctypes.sizeof(attribute), ctypes.sizeof(config), attribute.value.offset]
    assert [int(number) for number in found] == [*ours, *(getattr(config, name).offset for name in names)]


@pytest.mark.parametrize(("version", "number"), [(12020, 0), (12030, 2)])
def test_launches_overlap_if_the_driver_can_capture_them(
    pack: Pack, fake_driver: Path, gpu: Driver, version: int, number: int
) -> None:
    gpu.version(version)
    Call(FOR_CUDA[0]).run(PackedKernels(pack, "sm_90", MULTIPROCESSORS, library=str(fake_driver)))
    assert gpu.num_overlapping == number
    assert len(gpu.launches(lambda address: ("", address))) == 4


def test_a_kernel_that_the_pack_lacks_is_named(pack: Pack, fake_driver: Path, gpu: Driver) -> None:
    without = replace(pack, kernels=tuple(kernel for kernel in pack.kernels if kernel.kernel != hopper.DOWN))
    for arch, held, missing in (("sm_90", without, hopper.DOWN), ("sm_80", pack, hopper.UP)):
        kernels = PackedKernels(held, arch, MULTIPROCESSORS, library=str(fake_driver))
        with pytest.raises(KernelError, match=f"the kernel pack has no kernel .*{missing}"):
            Call(FOR_CUDA[0]).run(kernels)
    assert gpu.launches() == []


def test_a_launch_that_fails_gives_the_driver_s_reason(packed: PackedKernels, gpu: Driver) -> None:
    gpu.fail_launches(700)
    with pytest.raises(KernelError, match="cuLaunchKernelEx failed: CUDA_ERROR_FAKE"):
        Call(FOR_CUDA[0]).run(packed)
    gpu.fail_launches(0)
    Call(FOR_CUDA[0]).run(packed)


def test_a_map_that_the_driver_refuses_gives_its_reason(packed: PackedKernels, gpu: Driver) -> None:
    with pytest.raises(KernelError, match="cuTensorMapEncodeTiled failed: CUDA_ERROR_FAKE"):
        Call(FOR_CUDA[0], offset=1).run(packed)
    assert gpu.launches() == []


def test_a_driver_before_cuda_12_is_rejected(pack: Pack, tmp_path: Path) -> None:
    older = compile_fake_driver(tmp_path, "plugin_fake_cuda.cpp", "ACM_FAKE_CUDA_11")
    with pytest.raises(KernelError, match="no cuTensorMapEncodeTiled") as caught:
        PackedKernels(pack, "sm_90", MULTIPROCESSORS, library=str(older))
    assert "CUDA 12" in str(caught.value.hint)


def test_without_a_driver_there_is_an_error(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="no CUDA driver was found"):
        PackedKernels(pack, "sm_90", MULTIPROCESSORS, library=str(tmp_path / "libcuda.so.1"))
