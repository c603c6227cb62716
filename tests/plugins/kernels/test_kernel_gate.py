"""The gate's kernel, interpreted and compared with a float64 loop; compiled without spills; and when a gate uses it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from kernel_cubins import stack_bytes
from kernel_processes import compiling, interpreted
from kernel_runs import array, telltale_memory, tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from acm_export.base.errors import OpError
from acm_export.modules import Gate
from acm_export.modules.gate_logits import gate_logits, run_kernel
from acm_export.plugins.kernels.tiles import ARCHITECTURES

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]
DTYPES = [np.float16, ml_dtypes.bfloat16]
CHOICES = [1, 2, 5, 9, 33, 65]
TOLERANCE = 4 * 2.0**-23
"""Four float32 ulps of the sum of all products without their signs."""

OP = torch.ops.acm.gate_logits.default


def random_arrays(tokens: int, width: int, choices: int, dtype: Any) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng()
    x, weight, bias = (rng.standard_normal(shape) for shape in ((tokens, width), (choices, width), choices))
    return x.astype(dtype), weight.astype(np.float32), bias.astype(np.float32)


def run(x: Array, weight: Array, bias: Array, *, shift: int = 0) -> Array:
    """Logits from the kernel; NaN lies behind x and the weight, and x starts ``shift`` values late."""
    tensors = [_before_nan(tensor(x), shift), _before_nan(tensor(weight), 0), tensor(bias)]
    with telltale_memory():
        return array(run_kernel(*tensors))


def _before_nan(values: torch.Tensor, shift: int) -> torch.Tensor:
    memory = torch.full((shift + values.numel() + 4096,), torch.nan, dtype=values.dtype)
    view = memory[shift : shift + values.numel()].view(values.shape)
    return view.copy_(values)


def assert_matches_loop(logits: Array, x: Array, weight: Array, bias: Array) -> None:
    assert logits.shape == (len(x), len(bias))
    assert logits.dtype == np.float32
    x, weight, bias = (values.astype(np.float64) for values in (x, weight, bias))
    for token in range(len(x)):
        for choice in range(len(bias)):
            with np.errstate(invalid="ignore"):
                products = x[token] * weight[choice]
                exact, size = products.sum() + bias[choice], np.abs(products).sum() + abs(bias[choice])
            found = float(logits[token, choice])
            if np.isfinite(exact):
                assert abs(found - exact) <= TOLERANCE * size, (token, choice)
            else:
                np.testing.assert_equal(found, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("width", [1, 7, 48, 768, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_width_and_number_of_choices(width: int, choices: int, dtype: Any) -> None:
    arrays = random_arrays(17, width, choices, dtype)
    assert_matches_loop(interpreted(run, *arrays), *arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 15, 17, 100])
@pytest.mark.parametrize(("width", "choices"), [(7, 5), (48, 9), (768, 5)])
def test_any_number_of_tokens(tokens: int, width: int, choices: int, dtype: Any) -> None:
    arrays = random_arrays(tokens, width, choices, dtype)
    assert_matches_loop(interpreted(run, *arrays), *arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [48, 100])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_reach_the_logits_of_their_token_alone(bad: float, width: int, dtype: Any) -> None:
    x, weight, bias = random_arrays(33, width, 10, dtype)
    x[3, 0], x[17, width - 1], x[32, 5] = bad, bad, bad
    x[32, 6] = -bad
    weight[2, 5], weight[4, 0] = 0, 0
    logits = interpreted(run, x, weight, bias)
    assert_matches_loop(logits, x, weight, bias)
    assert (~np.isfinite(logits).all(axis=1)).nonzero()[0].tolist() == [3, 17, 32]


@pytest.mark.parametrize("shift", [1, 4])
def test_rows_that_are_not_aligned(shift: int) -> None:
    arrays = random_arrays(40, 64, 5, np.float16)
    assert_matches_loop(interpreted(run, *arrays, shift=shift), *arrays)


def test_the_same_call_gives_the_same_bits() -> None:
    arrays = random_arrays(100, 768, 5, ml_dtypes.bfloat16)
    assert interpreted(run, *arrays).tobytes() == interpreted(run, *arrays).tobytes()


def ptx_and_stack(arch: str, dtype: str, choices: int, vectors: bool, folder: Path) -> tuple[str, int]:
    """Assembly, and bytes of local memory of a thread, spilled registers included."""
    os.environ |= {"TRITON_CACHE_DIR": str(folder), "TRITON_DEFAULT_FP_FUSION": "1"}
    os.environ.pop("TRITON_PTXAS_BLACKWELL_PATH", None)  # the one that Triton picks when it launches
    import triton
    from triton.backends.compiler import GPUTarget

    from acm_export.plugins.kernels.gate import constants, gate, options

    values, names = constants(choices, vectors=vectors), gate.arg_names
    types = {"x": f"*{dtype}", "weight": "*fp32", "bias": "*fp32", "logits": "*fp32"}
    aligned = ["weight", "bias", "logits", *(["x", "model_dim"] if vectors else [])]
    source = triton.compiler.ASTSource(
        gate,
        {name: "constexpr" if name in values else types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in values.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    built = triton.compile(source, target=GPUTarget("cuda", int(arch[3:]), 32), options=options(choices))
    cubin = folder / f"{arch}-{dtype}-{choices}-{vectors}.cubin"
    cubin.write_bytes(built.asm["cubin"])
    return built.asm["ptx"], stack_bytes(cubin)


@pytest.mark.parametrize(
    "arch",
    [a if a == "sm_90" else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES],
)
@pytest.mark.parametrize("vectors", [True, False])
def test_no_register_is_spilled(vectors: bool, arch: str, tmp_path: Path) -> None:
    for choices in (1, 5, 8, 9):
        ptx, stack = compiling(ptx_and_stack, arch, "bf16" if choices % 2 else "fp16", choices, vectors, tmp_path)
        assert stack == 0, choices
        assert ".ftz" not in ptx


@pytest.mark.slow
@pytest.mark.parametrize("choices", range(1, 10))
def test_no_register_is_spilled_for_any_number_of_choices(choices: int, tmp_path: Path) -> None:
    for arch in ("sm_80", "sm_87", "sm_90"):
        for dtype in ("fp16", "bf16"):
            assert compiling(ptx_and_stack, arch, dtype, choices, True, tmp_path)[1] == 0, (arch, dtype)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_steps_read_16_bytes_at_once_and_share_nothing_between_threads(arch: str, tmp_path: Path) -> None:
    ptx, _ = compiling(ptx_and_stack, arch, "bf16", 5, True, tmp_path)
    steps = ptx[: ptx.index("shfl.sync")]  # sums across threads come after the loop
    assert steps.count("ld.global.v4.b32") == 2 + 2 * 5  # 2 rows of x, 8 weights of each choice
    assert "bra" in steps
    assert "bar.sync" not in steps
    assert "st.shared" not in steps


# Which gates use it. Tensors that pretend to be on a GPU show what is called without one.


def on_gpu(mode: FakeTensorMode, values: torch.Tensor) -> torch.Tensor:
    return FakeTensor(mode, values.detach().to("meta"), torch.device("cuda:0"))


def gate_on_gpu(mode: FakeTensorMode, *dims: int, requires_grad: bool = True) -> Gate:
    gate = Gate(dims)
    for linear in gate.linears:
        for name in ("weight", "bias"):
            setattr(linear, name, torch.nn.Parameter(on_gpu(mode, getattr(linear, name)), requires_grad))
    return gate


class _Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Any] = []

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inference_in_half_precision_on_a_gpu_is_one_op(dtype: torch.dtype) -> None:
    mode = FakeTensorMode()
    gate, x = gate_on_gpu(mode, 48, 5), on_gpu(mode, torch.empty(2, 3, 48, dtype=dtype))
    with torch.no_grad(), _Recorded() as recorded:
        logits = gate(x)
    assert (logits.shape, logits.dtype) == ((2, 3, 5), torch.float32)
    assert [op for op in recorded.ops if op.namespace in ("acm", "aten")] == [OP]


@pytest.mark.parametrize("strict", [True, False])
def test_exported_programs_hold_ordinary_ops(strict: bool) -> None:
    mode = FakeTensorMode()
    gate, x = gate_on_gpu(mode, 48, 5), on_gpu(mode, torch.empty(3, 48, dtype=torch.float16))
    with torch.no_grad():
        program = torch.export.export(gate, (x,), strict=strict)
    targets = {node.target for node in program.graph.nodes}
    assert torch.ops.aten.linear.default in targets
    assert OP not in targets


def test_training_other_dtypes_and_deeper_gates_keep_ordinary_ops() -> None:
    mode = FakeTensorMode()
    half, single = (on_gpu(mode, torch.empty(3, 48, dtype=dtype)) for dtype in (torch.float16, torch.float32))
    gate, deep = gate_on_gpu(mode, 48, 5), gate_on_gpu(mode, 48, 4, 5)
    frozen = gate_on_gpu(mode, 48, 5, requires_grad=False)
    assert not gate._runs_as_one_kernel(half)
    assert frozen._runs_as_one_kernel(half)
    assert not frozen._runs_as_one_kernel(half.clone().requires_grad_())
    with torch.no_grad():
        assert gate._runs_as_one_kernel(half)
        assert not gate._runs_as_one_kernel(single)
        assert not deep._runs_as_one_kernel(half)
        assert not Gate((48, 5))._runs_as_one_kernel(torch.empty(3, 48, dtype=torch.float16))


@pytest.mark.parametrize("leading", [(), (0,), (4,), (2, 3)])
def test_opcheck(leading: tuple[int, ...]) -> None:
    torch.library.opcheck(OP, (torch.randn(*leading, 6).half(), torch.randn(3, 6), torch.randn(3)))


def test_the_op_on_a_cpu_is_what_gates_compute_there() -> None:
    gate, x = Gate((48, 5)).requires_grad_(False), torch.randn(2, 7, 48).bfloat16()
    linear = gate.linears[0]
    assert torch.equal(gate_logits(x, linear.weight, linear.bias), gate(x))


def test_the_op_compiles_without_a_graph_break(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate((48, 5)).requires_grad_(False)
    monkeypatch.setattr(Gate, "_runs_as_one_kernel", lambda _self, _x: True)
    x = torch.randn(7, 48).half()
    assert torch.equal(torch.compile(gate, fullgraph=True, backend="aot_eager")(x), gate(x))


def test_flops_are_those_of_a_linear_map() -> None:
    x, weight, bias = torch.randn(2, 7, 48).half(), torch.randn(5, 48), torch.randn(5)
    with FlopCounterMode(display=False) as one, torch.no_grad():
        gate_logits(x, weight, bias)
    with FlopCounterMode(display=False) as other, torch.no_grad():
        torch.nn.functional.linear(x.float(), weight, bias)
    assert one.get_total_flops() == other.get_total_flops() > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": torch.zeros(4, 6)}, r"float32.*float16"),
        ({"weight": torch.zeros(3, 6).half()}, r"weight.*float16.*float32"),
        ({"bias": torch.zeros(3, device="meta")}, r"meta.*cpu"),
        ({"bias": torch.zeros(2)}, r"\[3, 6\].*\[2\]"),
        ({"x": torch.zeros(4, 5).half()}, r"\[4, 5\].*\[3, 6\]"),
    ],
)
def test_contradicting_arguments_are_rejected_with_both_values(changes: dict[str, torch.Tensor], said: str) -> None:
    tensors = {"x": torch.zeros(4, 6).half(), "weight": torch.zeros(3, 6), "bias": torch.zeros(3)} | changes
    with pytest.raises(OpError, match=said):
        gate_logits(**tensors)
