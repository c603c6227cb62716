"""Gated FFNs on a GPU: the torch op and the plugin's core; test_gpu_kernels_int8.py has their int8 kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gpu_reference import TOLERANCE, Inputs, largest_error, random_inputs, reference
from kernel_int8 import exact_int8_inputs, exact_y
from plugin_build import build
from plugin_cases import GluCase, QuantizedGluCase
from plugin_core import Core, pointers
from plugin_packed import packed
from test_gpu_plugin import DRIVER, prepared, space
from test_gpu_plugin_int8 import DTYPES

from acm_export.base.errors import KernelError
from acm_export.modules import glu_gated_learners
from acm_export.op.quantized_signature import QuantizedSignature
from acm_export.op.signature import ACTIVATIONS, Signature
from acm_export.plugins.kernels import launch
from acm_export.plugins.kernels.pack import default_folder, read_pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]


def glu(num_learners: int = 4, min_learners: int = 0, activation: str = "silu") -> Signature:
    return Signature(num_learners, min_learners, activation, glu=True)


def check(inputs: Inputs) -> None:
    y, counts = glu_gated_learners(*inputs.tensors, *inputs.attributes())
    expected, expected_counts = reference(inputs)
    assert torch.equal(counts, expected_counts)
    assert largest_error(y, expected) <= TOLERANCE[y.dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 64, 65, 197, 511, 513, 4097])
def test_tokens_around_the_sizes_at_which_tiles_change(tokens: int, dtype: torch.dtype) -> None:
    check(random_inputs(tokens, 768, 512, glu(), dtype, seed=tokens))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 40, 197, 4097])
def test_kernels_that_triton_compiles_here(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_pack", lambda _device: None)  # otherwise they come from the pack on some GPUs
    check(random_inputs(tokens, 768, 512, glu(), dtype, seed=tokens))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("model_dim", "hidden_dim"), [(1, 1), (33, 100), (48, 24), (720, 208)])
def test_widths_that_are_not_a_multiple_of_a_tile(model_dim: int, hidden_dim: int, dtype: torch.dtype) -> None:
    for tokens in (5, 150, 700):
        check(random_inputs(tokens, model_dim, hidden_dim, glu(3, 1, "gelu_tanh"), dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    for dtype in TOLERANCE:
        check(random_inputs(300, 256, 128, glu(4, 0, activation), dtype))


def test_a_captured_graph_follows_new_counts() -> None:
    inputs = random_inputs(5000, 256, 128, glu(), torch.float16)
    check(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, counts = glu_gated_learners(*inputs.tensors, *inputs.attributes())
    for seed in range(1, 4):
        fresh = random_inputs(5000, 256, 128, glu(), torch.float16, seed=seed)
        for old, new in zip(inputs.tensors[:2], fresh.tensors[:2], strict=True):
            old.copy_(new)
        graph.replay()
        expected, expected_counts = reference(inputs)
        assert torch.equal(counts, expected_counts)
        assert largest_error(y, expected) <= TOLERANCE[torch.float16]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    try:
        read_pack()
    except KernelError as error:
        pytest.skip(f"{error}; {error.hint}")
    return Core(build("acm_core_harness", tmp_path_factory.mktemp("gpu_core"), default_folder()), DRIVER)


def outputs(tokens: int, model_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.full((tokens, model_dim), float("nan"), dtype=dtype, device="cuda")
    return y, torch.full((tokens,), -1, dtype=torch.int32, device="cuda")


def addresses(case: Any, given: dict[str, torch.Tensor], y: torch.Tensor, counts: torch.Tensor, size: int) -> Any:
    workspace = space(size)
    all_tensors = given | {"y": y, "counts": counts, "workspace": workspace}
    named = {name: tensor.data_ptr() for name, tensor in all_tensors.items()}
    return pointers(case.inputs, **named, stream=torch.cuda.current_stream().cuda_stream), workspace


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("widths", [(768, 384), (256, 128), (65, 24)])
@pytest.mark.parametrize("leading", [(1,), (40,), (197,), (2, 2500)])
def test_the_core_of_the_plugin_agrees_with_the_loop(
    core: Core, leading: tuple[int, ...], widths: tuple[int, int], dtype: str
) -> None:
    case = GluCase(leading=leading, model_dim=widths[0], hidden_dim=widths[1], activation="silu", dtype=dtype)
    layer, workspace = prepared(core, case)
    for tactic in [0, *layer.tactics(case.tensors())]:
        inputs = random_inputs(case.problem.tokens, *widths, glu(), getattr(torch, dtype), seed=tactic)
        given = dict(zip(case.inputs, inputs.tensors, strict=True))
        y, counts = outputs(case.problem.tokens, widths[0], getattr(torch, dtype))
        where, _kept = addresses(case, given, y, counts, workspace.numel())
        assert layer.set_tactic(tactic)
        assert layer.enqueue(case.tensors(), where), core.error
        torch.cuda.synchronize()
        expected, expected_counts = reference(inputs)
        assert torch.equal(counts, expected_counts)
        assert largest_error(y, expected) <= TOLERANCE[y.dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("widths", [(256, 128), (65, 24)])
@pytest.mark.parametrize("leading", [(12,), (197,), (2, 700)])
def test_the_core_of_the_plugin_agrees_in_every_bit_in_int8(
    core: Core, leading: tuple[int, ...], widths: tuple[int, int], dtype: str
) -> None:
    case = QuantizedGluCase(leading=leading, model_dim=widths[0], hidden_dim=widths[1], activation="relu", dtype=dtype)
    signature = QuantizedSignature(case.num_learners, case.min_learners, case.activation, glu=True)
    feeds = exact_int8_inputs(np.random.default_rng(0), leading, *widths, signature, DTYPES[dtype])
    given = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8).cuda() for name, content in packed(feeds).items()
    }
    layer, workspace = prepared(core, case)
    y, counts = outputs(case.problem.tokens, widths[0], getattr(torch, dtype))
    where, _kept = addresses(case, given, y, counts, workspace.numel())
    assert layer.enqueue(case.tensors(), where), core.error
    torch.cuda.synchronize()
    expected = exact_y(feeds, signature).astype(np.float64).reshape(y.shape)
    np.testing.assert_array_equal(y.double().cpu().numpy(), expected)
