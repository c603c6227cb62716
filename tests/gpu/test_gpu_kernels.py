"""The staircase kernels on a GPU, through the registered torch op. Without a GPU all of this is skipped."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from gpu_reference import TOLERANCE, Inputs, largest_error, random_inputs, reference

from acm_export.modules import ACMLayer, ACMSpec, gated_learners
from acm_export.op.signature import ACTIVATIONS, Signature
from acm_export.plugins.kernels import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]


def run(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return gated_learners(*inputs.tensors, *inputs.attributes())


def check(inputs: Inputs) -> None:
    y, counts = run(inputs)
    expected, expected_counts = reference(inputs)
    assert torch.equal(counts, expected_counts)
    assert largest_error(y, expected) <= TOLERANCE[y.dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 17, 63, 64, 65, 197, 511, 513, 1000, 4097])
def test_tokens_around_the_sizes_at_which_tiles_change(tokens: int, dtype: torch.dtype) -> None:
    check(random_inputs(tokens, 768, 768, Signature(4, 0, "gelu"), dtype, seed=tokens))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 40, 197, 1000, 4097])
def test_kernels_that_triton_compiles_here(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_pack", lambda _device: None)  # otherwise they come from the pack on some GPUs
    check(random_inputs(tokens, 768, 768, Signature(4, 0, "gelu"), dtype, seed=tokens))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("model_dim", "hidden_dim"), [(1, 1), (7, 5), (33, 100), (48, 24), (192, 96), (720, 208)])
def test_widths_that_are_not_a_multiple_of_a_tile(model_dim: int, hidden_dim: int, dtype: torch.dtype) -> None:
    for tokens in (5, 150, 700):
        check(random_inputs(tokens, model_dim, hidden_dim, Signature(3, 1, "silu"), dtype))


@pytest.mark.parametrize(("learners", "minimum"), [(1, 0), (1, 1), (2, 1), (8, 8), (16, 3), (64, 0), (64, 63)])
def test_every_number_of_learners(learners: int, minimum: int) -> None:
    for tokens, dtype in product((40, 900), TOLERANCE):
        check(random_inputs(tokens, 64, 32, Signature(learners, minimum, "relu"), dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    for dtype in TOLERANCE:
        check(random_inputs(300, 256, 128, Signature(4, 0, activation), dtype))


@pytest.mark.parametrize("threshold", [float("inf"), float("-inf"), float("nan"), 0.5, -2.0])
def test_thresholds_of_any_value(threshold: float) -> None:
    for tokens in (64, 2000):
        check(random_inputs(tokens, 128, 64, Signature(4, 1, "gelu"), torch.float16, threshold=threshold))


def test_logits_that_are_not_finite() -> None:
    inputs = random_inputs(3000, 64, 64, Signature(5, 0, "gelu"), torch.float32)
    logits = inputs.tensors[1]
    special = torch.tensor([float("nan"), float("inf"), float("-inf")], device="cuda")
    where = torch.rand(logits.shape, device="cuda") < 0.2
    logits[where] = special[torch.randint(3, logits.shape, device="cuda")][where]
    check(inputs)


def test_a_view_that_is_neither_contiguous_nor_aligned() -> None:
    inputs = random_inputs(200, 64, 32, Signature(4, 0, "gelu"), torch.float16)
    x = torch.empty(200, 131, device="cuda", dtype=torch.float16)[:, 3:131:2]
    x.copy_(inputs.tensors[0])
    check(Inputs((x, *inputs.tensors[1:]), inputs.signature))
    shifted = torch.empty(200 * 64 + 1, device="cuda", dtype=torch.float16)[1:].view(200, 64)
    shifted.copy_(inputs.tensors[0])
    check(Inputs((shifted, *inputs.tensors[1:]), inputs.signature))


def test_offsets_beyond_32_bits_and_several_chunks() -> None:
    tokens, width = 1 << 20, 2560
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    inputs = random_inputs(tokens, width, 64, Signature(4, 0, "gelu"), torch.float16)
    y, counts = run(inputs)
    some = torch.cat([torch.arange(64), torch.randint(tokens, (512,)), torch.arange(tokens - 64, tokens)]).cuda()
    x, logits, *rest = inputs.tensors
    expected, expected_counts = reference(Inputs((x[some], logits[some], *rest), inputs.signature))
    assert torch.equal(counts[some], expected_counts)
    assert largest_error(y[some], expected) <= TOLERANCE[torch.float16]


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("tokens", [1, 197, 5000])
def test_nothing_waits_for_the_device(tokens: int) -> None:
    run(random_inputs(tokens, 64, 64, Signature(4, 0, "gelu"), torch.float16))


@pytest.mark.parametrize("tokens", [16, 197, 5000])
def test_a_captured_graph_follows_new_counts(tokens: int) -> None:
    signature = Signature(4, 0, "gelu")
    inputs = random_inputs(tokens, 256, 128, signature, torch.float16)
    run(inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, counts = run(inputs)
    for seed in range(1, 6):
        fresh = random_inputs(tokens, 256, 128, signature, torch.float16, seed=seed)
        for old, new in zip(inputs.tensors[:3], fresh.tensors[:3], strict=True):
            old.copy_(new)
        inputs.tensors[2].fill_(seed - 3.0)
        graph.replay()
        expected, expected_counts = reference(inputs)
        assert torch.equal(counts, expected_counts)
        assert largest_error(y, expected) <= TOLERANCE[torch.float16]


def test_streams_do_not_disturb_each_other() -> None:
    cases = [random_inputs(3000 + 500 * i, 512, 256, Signature(4, 0, "gelu"), torch.bfloat16, seed=i) for i in (0, 1)]
    expected = [reference(case) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    results = []
    for _ in range(20):
        for stream, case in zip(streams, cases, strict=True):
            with torch.cuda.stream(stream):
                results.append(run(case))
    torch.cuda.synchronize()
    for i, (y, counts) in enumerate(results):
        assert torch.equal(counts, expected[i % 2][1])
        assert largest_error(y, expected[i % 2][0]) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [12, 197, 5000])
def test_a_hundred_runs_give_the_same_bits(tokens: int, dtype: torch.dtype) -> None:
    inputs = random_inputs(tokens, 384, 192, Signature(4, 0, "gelu"), dtype)
    first, _ = run(inputs)
    for _ in range(100):
        assert torch.equal(run(inputs)[0], first)


def test_idle_learners_are_not_read() -> None:
    inputs = random_inputs(40, 256, 128, Signature(4, 0, "gelu"), torch.float16)
    x, logits, thresholds, w1, b1, w2, b2 = inputs.tensors
    thresholds[2:] = float("inf")
    expected, _ = reference(inputs)
    w1[:, 256:], b1[256:], w2[256:] = float("nan"), float("nan"), float("nan")
    y, _ = run(Inputs((x, logits, thresholds, w1, b1, w2, b2), inputs.signature))
    assert largest_error(y, expected) <= TOLERANCE[torch.float16]


def test_tf32_is_used_only_if_pytorch_allows_it() -> None:
    inputs = random_inputs(2000, 512, 256, Signature(4, 0, "gelu"), torch.float32)
    expected, _ = reference(inputs)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        exact = largest_error(run(inputs)[0], expected)
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        rounded = largest_error(run(inputs)[0], expected)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert exact <= TOLERANCE[torch.float32] < rounded < 1e-2


def test_compiled_layers_agree_with_eager_ones() -> None:
    layer = ACMLayer(ACMSpec(model_dim=256, num_learners=4, hidden_dim=128)).cuda().half().eval()
    x = torch.randn(8, 197, 256, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))
        graphs = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
        for _ in range(3):
            torch.testing.assert_close(graphs(x).clone(), layer(x))
