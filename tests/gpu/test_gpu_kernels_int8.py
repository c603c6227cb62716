"""The int8 kernels on a GPU: every step against the definition, and the torch ops against the CPU's."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from kernel_int8 import (
    Feeds,
    assert_exact_steps,
    exact_int8_inputs,
    exact_y,
    int8_operator,
    random_int8_inputs,
)
from kernel_runs import array, tensor
from op_model import logits_of
from op_strategies import BOTH_KINDS

from acm_export.modules import quantized_gated_learners, quantized_glu_gated_learners
from acm_export.op.quantized_signature import QuantizedSignature
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import launch, launch_quantized
from acm_export.plugins.kernels.tiles import Entry, entries

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
INT8 = [index for index, entry in enumerate(entries()) if entry.precision == "int8"]


def tensors(feeds: Feeds, device: str = "cuda") -> list[torch.Tensor]:
    return [tensor(value).to(device) for value in feeds.values()]


def attributes(signature: QuantizedSignature) -> tuple[int, int, str]:
    return signature.num_learners, signature.min_learners, signature.activation


def check(feeds: Feeds, signature: QuantizedSignature) -> None:
    """Compare with the CPU: counts are equal, and at most about 1% of the hidden values are off by 1."""
    y, counts = quantized_gated_learners(*tensors(feeds), *attributes(signature))
    expected, expected_counts = quantized_gated_learners(*tensors(feeds, "cpu"), *attributes(signature))
    assert torch.equal(counts.cpu(), expected_counts)
    if not y.numel():
        return
    error = (y.cpu().double() - expected.double()).abs()
    rounding = ROUNDING[str(feeds["x"].dtype)] * max(1.0, float(expected.abs().max()))
    step = one_hidden_value(feeds)
    assert float(error.max()) <= rounding + 6 * step
    assert float(error.mean()) <= rounding + step


def one_hidden_value(feeds: Feeds) -> float:
    """Typical change of y if 1% of its hidden values are off by 1 in either direction."""
    return 127 * float(feeds["s2"].max()) * (1 + 0.01 * len(feeds["w2"])) ** 0.5


def entry_of_this_gpu(index: int) -> Entry:
    entry = entries()[index]
    arch = launch.architecture(torch.device("cuda"))
    if arch not in entry.archs:
        pytest.skip(f"entry {index} is not for {arch}")
    return entry


@BOTH_KINDS
@pytest.mark.parametrize("widths", [(768, 768), (784, 208), (50, 36)])
@pytest.mark.parametrize("index", INT8)
def test_every_step_is_exact(index: int, widths: tuple[int, int], glu: bool) -> None:
    entry = entry_of_this_gpu(index)
    if entry.alignment > 1 and widths[0] % 16:
        pytest.skip("these tiles need widths that are multiples of 16")
    for dtype, activation in zip(DTYPES + DTYPES, ACTIVATIONS, strict=False):
        tokens = min(entry.max_tokens or 150, 150)
        signature = QuantizedSignature(4, 0, activation, glu=glu)
        feeds = random_int8_inputs(np.random.default_rng(index), (tokens,), *widths, signature, dtype)
        steps = int8_operator(feeds, signature, entry=entry, device="cuda")
        assert_exact_steps(steps, feeds, signature, on_gpu=True)


@BOTH_KINDS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("tokens", [7, 50, 197, 1000])
def test_y_is_exact_where_the_activation_is(tokens: int, activation: str, dtype: Any, glu: bool) -> None:
    run = quantized_glu_gated_learners if glu else quantized_gated_learners
    for seed, widths in enumerate([(768, 384), (50, 36), (48, 16)]):
        signature = QuantizedSignature(3, seed, activation, glu=glu)
        feeds = exact_int8_inputs(np.random.default_rng(seed), (tokens,), *widths, signature, dtype)
        y, _ = run(*tensors(feeds), *attributes(signature))
        expected = exact_y(feeds, signature)
        np.testing.assert_array_equal(array(y.cpu()).astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 17, 63, 64, 65, 197, 511, 513, 1000, 4097])
def test_tokens_around_the_sizes_at_which_tiles_change(tokens: int, dtype: Any) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    check(random_int8_inputs(np.random.default_rng(tokens), (tokens,), 768, 768, signature, dtype), signature)


@pytest.mark.parametrize("tokens", [1, 40, 197, 1000, 4097])
def test_kernels_that_triton_compiles_here(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_quantized, "usable_pack", lambda _device: None)  # else from the pack on some GPUs
    signature = QuantizedSignature(4, 0, "gelu")
    for dtype in DTYPES:
        check(random_int8_inputs(np.random.default_rng(tokens), (tokens,), 768, 768, signature, dtype), signature)


@pytest.mark.parametrize("widths", [(1, 1), (7, 5), (33, 100), (48, 24), (192, 96), (720, 208)])
def test_widths_that_are_not_a_multiple_of_a_tile(widths: tuple[int, int]) -> None:
    signature = QuantizedSignature(3, 1, "silu")
    for tokens, dtype in product((5, 150, 700), DTYPES):
        check(random_int8_inputs(np.random.default_rng(0), (tokens,), *widths, signature, dtype), signature)


@pytest.mark.parametrize(("learners", "minimum"), [(1, 0), (1, 1), (2, 1), (8, 8), (16, 3), (64, 0), (64, 63)])
def test_every_number_of_learners(learners: int, minimum: int) -> None:
    signature = QuantizedSignature(learners, minimum, "relu")
    for tokens in (40, 900):
        check(random_int8_inputs(np.random.default_rng(1), (tokens,), 64, 32, signature), signature)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_all_tokens_with_one_count(count: int) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    for tokens in (1, 100, 2000):
        feeds = random_int8_inputs(np.random.default_rng(2), (tokens,), 256, 128, signature)
        check(feeds | {"gate_logits": logits_of(np.full(tokens, count), signature)}, signature)


def test_logits_that_are_not_finite() -> None:
    signature, rng = QuantizedSignature(5, 0, "gelu"), np.random.default_rng(3)
    feeds = random_int8_inputs(rng, (3000,), 64, 64, signature)
    where = rng.random(feeds["gate_logits"].shape) < 0.2
    feeds["gate_logits"][where] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), int(where.sum()))
    check(feeds, signature)


@pytest.mark.parametrize("tokens", [40, 1000])
def test_a_token_that_is_not_finite_changes_no_other(tokens: int) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    feeds = random_int8_inputs(np.random.default_rng(4), (tokens,), 256, 128, signature)
    expected, expected_counts = quantized_gated_learners(*tensors(feeds), *attributes(signature))
    feeds["x"][::7] = np.nan
    y, counts = quantized_gated_learners(*tensors(feeds), *attributes(signature))
    others = torch.arange(tokens, device="cuda") % 7 > 0
    assert torch.equal(counts, expected_counts)
    assert torch.equal(y[others], expected[others])


def test_several_chunks_and_offsets_beyond_32_bits() -> None:
    tokens, width = 1 << 20, 2560
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    signature = QuantizedSignature(4, 0, "gelu")
    few = random_int8_inputs(np.random.default_rng(5), (1,), width, 64, signature, np.float16)
    given = tensors(few)
    given[0] = torch.randn(tokens, width, device="cuda", dtype=torch.float16)
    given[1] = torch.randn(tokens, 5, device="cuda")
    y, counts = quantized_gated_learners(*given, *attributes(signature))
    some = torch.cat([torch.arange(64), torch.randint(tokens, (512,)), torch.arange(tokens - 64, tokens)]).cuda()
    part = [given[0][some], given[1][some], *given[2:]]
    expected, expected_counts = quantized_gated_learners(*(t.cpu() for t in part), *attributes(signature))
    assert torch.equal(counts[some].cpu(), expected_counts)
    error = (y[some].cpu().double() - expected.double()).abs()
    assert float(error.max()) <= 2e-3 * float(expected.abs().max()) + 6 * one_hidden_value(few)


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("tokens", [1, 197, 5000])
def test_nothing_waits_for_the_device(tokens: int) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    torch.cuda.set_sync_debug_mode("default")
    given = tensors(random_int8_inputs(np.random.default_rng(6), (tokens,), 64, 64, signature))
    torch.cuda.set_sync_debug_mode("error")
    quantized_gated_learners(*given, *attributes(signature))


@pytest.mark.parametrize("tokens", [16, 197, 5000])
def test_a_captured_graph_follows_new_counts(tokens: int) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    given = tensors(random_int8_inputs(np.random.default_rng(7), (tokens,), 256, 128, signature, np.float16))
    quantized_gated_learners(*given, *attributes(signature))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, counts = quantized_gated_learners(*given, *attributes(signature))
    for shift in (-2.0, 0.0, 1.0):
        given[0].normal_()
        given[1].normal_()
        given[2].fill_(shift)
        graph.replay()
        expected, expected_counts = quantized_gated_learners(*given, *attributes(signature))
        assert torch.equal(counts, expected_counts)
        assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [12, 197, 5000])
def test_a_hundred_runs_give_the_same_bits(tokens: int, dtype: Any) -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    given = tensors(random_int8_inputs(np.random.default_rng(8), (tokens,), 384, 192, signature, dtype))
    first, _ = quantized_gated_learners(*given, *attributes(signature))
    for _ in range(100):
        assert torch.equal(quantized_gated_learners(*given, *attributes(signature))[0], first)


def test_transposed_weights_are_not_copied() -> None:
    signature = QuantizedSignature(4, 0, "gelu")
    given = tensors(random_int8_inputs(np.random.default_rng(9), (100,), 1024, 2048, signature))
    expected, _ = quantized_gated_learners(*given, *attributes(signature))
    for index in (4, 9):
        given[index] = given[index].t().contiguous().t()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y, _ = quantized_gated_learners(*given, *attributes(signature))
    assert torch.equal(y, expected)
    assert torch.cuda.max_memory_allocated() - before < given[4].numel(), "W1 was copied"
