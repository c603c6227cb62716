"""The gate's kernel on a GPU, through the torch op and the layer. Without a GPU all of this is skipped."""

from __future__ import annotations

import copy

import pytest
import torch
from gpu_reference import TOLERANCE as OP_TOLERANCE
from gpu_reference import largest_error

from acm_export.modules import ACMLayer, ACMSpec, Gate
from acm_export.modules.gate_logits import gate_logits
from acm_export.modules.gated_learners import margins

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

TOLERANCE = 4 * 2.0**-23
"""Four float32 ulps of the sum of all products without their signs."""

DTYPES = [torch.float16, torch.bfloat16]


def random_tensors(
    tokens: int, width: int, choices: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(tokens, width, device="cuda").to(dtype)
    return x, torch.randn(choices, width, device="cuda"), torch.randn(choices, device="cuda")


def check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    check_logits(gate_logits(x, weight, bias), x, weight, bias)


def check_logits(logits: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    x, weight, bias = x.double(), weight.double(), bias.double()
    size = x.abs() @ weight.T.abs() + bias.abs()
    assert logits.dtype == torch.float32
    assert ((logits - (x @ weight.T + bias)).abs() <= TOLERANCE * size).all()


@pytest.fixture(scope="module")
def layer() -> ACMLayer:
    layer = ACMLayer(ACMSpec(model_dim=768, num_learners=4, hidden_dim=256)).cuda().bfloat16().eval()
    layer.thresholds.uniform_(-0.2, 0.2)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 15, 17, 197, 25216])
def test_any_number_of_tokens(tokens: int, dtype: torch.dtype) -> None:
    check(*random_tensors(tokens, 768, 5, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choices", [1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 65])
@pytest.mark.parametrize("width", [1, 7, 48, 768, 1000])
def test_any_width_and_number_of_choices(width: int, choices: int, dtype: torch.dtype) -> None:
    check(*random_tensors(100, width, choices, dtype))


def test_views_that_are_neither_contiguous_nor_aligned() -> None:
    x, weight, bias = random_tensors(200, 64, 5, torch.float16)
    check(torch.empty(200, 131, device="cuda", dtype=x.dtype)[:, 3:131:2].copy_(x), weight, bias)
    check(torch.empty(200 * 64 + 1, device="cuda", dtype=x.dtype)[1:].view(200, 64).copy_(x), weight, bias)
    check(x, weight.T.contiguous().T, bias)


def test_values_that_are_not_finite_reach_the_logits_of_their_token_alone() -> None:
    x, weight, bias = random_tensors(100, 768, 5, torch.bfloat16)
    x[3, 0], x[17, 767] = torch.nan, torch.inf
    logits = gate_logits(x, weight, bias)
    assert logits[3].isnan().all()
    assert torch.equal(logits[17], weight[:, 767].sign() * torch.inf)
    others = [token for token in range(100) if token not in (3, 17)]
    check_logits(logits[others], x[others], weight, bias)


def test_offsets_beyond_32_bits() -> None:
    tokens, width = 1 << 20, 2560
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs 8 GiB of free GPU memory")
    x = torch.zeros(tokens, width, device="cuda", dtype=torch.float16)
    _, weight, bias = random_tensors(0, width, 5, torch.float16)
    x[-100:] = torch.randn(100, width, device="cuda")
    check_logits(gate_logits(x, weight, bias)[-100:], x[-100:], weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [17, 197, 5000])
def test_a_hundred_runs_give_the_same_bits(tokens: int, dtype: torch.dtype) -> None:
    tensors = random_tensors(tokens, 768, 5, dtype)
    first = gate_logits(*tensors)
    for _ in range(100):
        assert torch.equal(gate_logits(*tensors), first)


def test_a_captured_graph_follows_new_inputs() -> None:
    tensors = random_tensors(1000, 768, 5, torch.bfloat16)
    gate_logits(*tensors)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = gate_logits(*tensors)
    for _ in range(5):
        for old, new in zip(tensors, random_tensors(1000, 768, 5, torch.bfloat16), strict=True):
            old.copy_(new)
        graph.replay()
        check_logits(logits, *tensors)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_gates_agree_with_eager_ones(mode: str) -> None:
    gate = Gate((768, 5)).cuda().eval()
    with torch.no_grad():
        compiled = torch.compile(gate, fullgraph=True, mode=mode)
        for _ in range(3):
            x = torch.randn(4, 197, 768, device="cuda", dtype=torch.bfloat16)
            assert torch.equal(compiled(x).clone(), gate(x))


def test_gradients_are_those_of_the_linear_map() -> None:
    gate = Gate((768, 5)).cuda()
    linear = copy.deepcopy(gate.linears[0])
    x = torch.randn(197, 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    logits, expected = gate(x), linear(x.float())
    assert torch.equal(logits, expected)
    found = torch.autograd.grad(logits.square().sum(), (x, gate.linears[0].weight, gate.linears[0].bias))
    wanted = torch.autograd.grad(expected.square().sum(), (x, linear.weight, linear.bias))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_exported_gates_hold_ordinary_ops() -> None:
    gate, x = Gate((768, 5)).cuda(), torch.randn(197, 768, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        program = torch.export.export(gate, (x,))
    assert not [node for node in program.graph.nodes if "gate_logits" in str(node.target)]


def test_a_layer_decides_what_its_gate_decides_in_float32(layer: ACMLayer) -> None:
    x = torch.randn(32, 197, 768, device="cuda", dtype=torch.bfloat16)
    logits = layer.gate(x.float())
    y, counts = layer.run(x, logits)
    own_counts = layer.run(x, layer.gate_logits(x))[1]
    close = ((margins(logits) - layer.thresholds).abs() <= 1e-4).any(-1)
    assert (~close).sum() > 0.9 * close.numel()
    assert torch.equal(own_counts[~close], counts[~close])
    same = own_counts == counts
    assert largest_error(layer(x)[same], y[same].double()) <= OP_TOLERANCE[torch.bfloat16]
