"""Gated FFNs by kernels of the pack from PyTorch, on the fake driver: on sm_90 too they are those in Triton."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from plugin_pack import argument_names
from test_kernel_packed import Call, Int8Call, gpu, pack, packed, pointers_of

from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels.tiles import entries, select

if TYPE_CHECKING:
    from plugin_core import Driver

    from acm_export.plugins.kernels.packed import PackedKernels
    from acm_export.plugins.kernels.plan import Problem

pytest_plugins = ["plugin_fixtures"]
__all__ = ["gpu", "pack", "packed"]

SIZES = (768, 1536)
"""D and h, multiples of every tile and of those of the kernels in CUDA."""


def glu(problem: Problem, *, is_int8: bool) -> Any:
    """The problem with GLU learners; its entry where kernels in CUDA may be used, and the index of the entry."""
    problem = replace(problem, glu=True)
    entry = select("sm_90", "int8" if is_int8 else "half", problem, aligned=True, packed=True)
    assert entry.language == "triton"
    assert entry.glu is not None
    return problem, entry, entries().index(entry)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 16, 60, 512, 700, 5000])
def test_both_gemms_are_launched_with_their_tensors(
    packed: PackedKernels, gpu: Driver, tokens: int, dtype: torch.dtype
) -> None:
    call = Call(0, dtype, tokens=tokens)
    call.problem, call.entry, index = glu(call.problem, is_int8=False)
    call.tensors |= {
        "v1": torch.empty(SIZES[0], 4 * SIZES[1], dtype=dtype),
        "c1": torch.empty(4 * SIZES[1], dtype=dtype),
    }
    call.run(packed, "silu")
    *_, up, down = gpu.launches(call.placed)
    t = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    many = call.entry.max_tokens is None
    assert (up.kernel.kernel, up.kernel.dtype, up.kernel.entry, up.kernel.even) == ("up_glu", t, index, many)
    assert down.kernel.kernel == ("down_split" if call.entry.split else "down")
    assert tuple(up.arguments) == argument_names()["up_glu"]
    assert up.arguments["activation"] == ACTIVATIONS.index("silu")
    tile = call.entry.glu
    assert up.grid == (-(-tokens // tile.block_m) * 4 * (SIZES[1] // tile.block_n), 1)
    assert up.block == 32 * tile.warps
    for launch in (up, down):
        pointers = pointers_of(launch)
        assert pointers == {name: (name, 0) for name in pointers}
    assert {"v1", "c1"} <= set(pointers_of(up))


@pytest.mark.parametrize("tokens", [1, 60, 700])
def test_the_int8_operator_multiplies_by_both_weights(packed: PackedKernels, gpu: Driver, tokens: int) -> None:
    call = Int8Call(0, torch.float16, tokens=tokens, widths=(768, 768))
    call.problem, call.entry, index = glu(call.problem, is_int8=True)
    call.tensors |= {"v1_t": torch.empty(4 * 768 * 768, dtype=torch.int8), "t1": torch.empty(4 * 768)}
    call.tensors["c1"] = torch.empty(4 * 768)
    call.run(packed, "gelu")
    *_, quantize, up, _ = gpu.launches(call.placed)
    assert [run.kernel.kernel for run in (quantize, up)] == ["quantize_rows", "up_int8_glu"]
    assert (up.kernel.entry, up.kernel.even) == (index, call.entry.max_tokens is None)
    assert tuple(up.arguments) == argument_names()["up_int8_glu"]
    pointers = pointers_of(up)
    assert pointers == {name: (name, 0) for name in pointers}
    assert {"v1_t", "t1", "c1"} <= set(pointers)


def test_layers_with_and_without_a_second_weight_do_not_share_launches(packed: PackedKernels, gpu: Driver) -> None:
    plain, gated = Call(0, tokens=16), Call(0, tokens=16)
    gated.problem, gated.entry, _ = glu(gated.problem, is_int8=False)
    assert gated.entry is plain.entry, "the same tiles of GEMM 2"
    gated.tensors |= {name: torch.empty(1, dtype=torch.float16) for name in ("v1", "c1")}
    names = []
    for call in (plain, gated, plain):
        call.run(packed)
        names.append(gpu.launches(call.placed)[-2].kernel.kernel)
    assert names == ["up", "up_glu", "up"]
