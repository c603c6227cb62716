"""The plugin's core, and the plugin itself where TensorRT's headers are found, on a GPU. Skipped without one."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest
import torch
from gpu_reference import TOLERANCE, largest_error, random_inputs, reference
from plugin_build import build, each_header_set
from plugin_cases import Case
from plugin_core import Core, CPointers, Layer, pointers
from plugin_harness import Harness

from acm_export.base.errors import KernelError
from acm_export.op.signature import ACTIVATIONS, INPUTS, Signature
from acm_export.plugins.kernels.pack import default_folder, read_pack

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

DRIVER = "libcuda.so.1"
CASES = [
    Case(leading=leading, model_dim=model_dim, hidden_dim=hidden_dim, num_learners=n, min_learners=m, dtype=dtype)
    for leading in ((1,), (12,), (197,), (2, 2500))
    for model_dim, hidden_dim in ((256, 128), (65, 24))
    for n, m in ((4, 0), (8, 2))
    for dtype in ("float16", "bfloat16", "float32")
] + [
    Case(leading=(5000,), model_dim=model_dim, hidden_dim=hidden_dim, activation=activation, dtype=dtype)
    for model_dim, hidden_dim in ((768, 384), (80, 336))
    for activation in ACTIVATIONS
    for dtype in ("float16", "bfloat16")
]  # the last: a case with Hopper kernels


@pytest.fixture(scope="session")
def pack() -> Path:
    try:
        read_pack()
    except KernelError as error:
        pytest.skip(f"{error}; {error.hint}")
    return default_folder()


@pytest.fixture(scope="session")
def core_on_gpu(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return Core(build("acm_core_harness", tmp_path_factory.mktemp("gpu_core"), pack), DRIVER)


@pytest.fixture(scope="session")
def plugin_on_gpu(headers: TensorRTHeaders, pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp(f"gpu_{headers.version_text}")
    return Harness(build("acm_plugin_harness", folder, pack, headers), DRIVER)


class Call:
    """A case with its tensors on the device."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case = case
        signature = Signature(case.num_learners, case.min_learners, case.activation)
        tokens, dtype = case.problem.tokens, getattr(torch, case.dtype)
        self.inputs = random_inputs(tokens, case.model_dim, case.hidden_dim, signature, dtype, seed=seed)
        self.y = torch.full((tokens, case.model_dim), float("nan"), dtype=dtype, device="cuda")
        self.counts = torch.full((tokens,), -1, dtype=torch.int32, device="cuda")

    def addresses(self, workspace: torch.Tensor) -> CPointers:
        """On the stream that is current now."""
        named = dict(zip(INPUTS, (tensor.data_ptr() for tensor in self.inputs.tensors), strict=True))
        stream = torch.cuda.current_stream().cuda_stream
        outputs = {"y": self.y.data_ptr(), "counts": self.counts.data_ptr()}
        return pointers(**named, **outputs, workspace=workspace.data_ptr(), stream=stream)

    def check(self) -> None:
        torch.cuda.synchronize()
        expected, counts = reference(self.inputs)
        assert torch.equal(self.counts, counts)
        assert largest_error(self.y, expected) <= TOLERANCE[self.y.dtype]


def space(size: int) -> torch.Tensor:
    """A workspace full of NaN, in any type."""
    return torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")


def prepared(core: Core, case: Case) -> tuple[Layer, torch.Tensor]:
    layer = core.layer(case)
    assert layer.prepare(case.tensors()), core.error
    return layer, space(layer.workspace(case.tensors()))


def test_the_driver_loads_every_kernel_of_the_pack(pack: Path) -> None:
    torch.zeros(1, device="cuda")  # makes a context current
    cuda, held = ctypes.CDLL(DRIVER), read_pack(pack)
    properties = torch.cuda.get_device_properties(0)
    arch = held.architecture_for((properties.major, properties.minor), integrated=bool(properties.is_integrated))
    for kernel in held.kernels:
        if kernel.arch == arch:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            assert cuda.cuModuleLoadData(ctypes.byref(module), held.cubin(kernel)) == 0, kernel.key
            assert cuda.cuModuleGetFunction(ctypes.byref(function), module, kernel.symbol.encode()) == 0, kernel.key
            assert cuda.cuModuleUnload(module) == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_core_agrees_with_the_loop(core_on_gpu: Core, case: Case) -> None:
    call = Call(case)
    layer, workspace = prepared(core_on_gpu, case)
    assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
    call.check()


@pytest.mark.parametrize("leading", [(40,), (2, 2500)])
def test_every_tactic_computes_the_same(core_on_gpu: Core, leading: tuple[int, ...]) -> None:
    case = Case(leading=leading, model_dim=256, hidden_dim=128)
    layer, workspace = prepared(core_on_gpu, case)
    for tactic in layer.tactics(case.tensors()):
        call = Call(case, seed=tactic)
        assert layer.set_tactic(tactic)
        assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
        call.check()


def test_a_captured_enqueue_follows_new_inputs(core_on_gpu: Core) -> None:
    case = Case(leading=(3000,), model_dim=256, hidden_dim=128)
    call, (layer, workspace) = Call(case), prepared(core_on_gpu, case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
    for seed in range(1, 5):
        fresh = Call(case, seed=seed)
        for old, new in zip(call.inputs.tensors[:2], fresh.inputs.tensors[:2], strict=True):
            old.copy_(new)
        graph.replay()
        call.check()


def test_two_layers_on_two_streams(core_on_gpu: Core) -> None:
    cases = [Case(leading=(2000 + 900 * i,), model_dim=512, hidden_dim=128) for i in (0, 1)]
    calls = [Call(case, seed=i) for i, case in enumerate(cases)]
    layers = [prepared(core_on_gpu, case) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, call, (layer, workspace) in zip(streams, calls, layers, strict=True):
            with torch.cuda.stream(stream):
                assert layer.enqueue(call.case.tensors(), call.addresses(workspace)), core_on_gpu.error
    for call in calls:
        call.check()


@each_header_set()
@pytest.mark.parametrize("case", CASES[:12], ids=str)
def test_the_plugin_agrees_with_the_loop(plugin_on_gpu: Harness, case: Case) -> None:
    if case.dtype == "bfloat16" and not plugin_on_gpu.is_v3:
        pytest.skip("TensorRT 8 has no bfloat16")
    call = Call(case)
    needed = plugin_on_gpu.run(case, pointers(), workspace_size=0)
    assert needed > 0, plugin_on_gpu.take_log()
    workspace = space(needed)
    ran = plugin_on_gpu.run(case, call.addresses(workspace), workspace_size=needed, times=5)
    assert ran == needed, plugin_on_gpu.take_log()
    call.check()


@each_header_set()
def test_a_hundred_enqueues_give_the_same_bits(plugin_on_gpu: Harness) -> None:
    case = Case(leading=(1500,), model_dim=256, hidden_dim=128)
    call = Call(case)
    needed = plugin_on_gpu.run(case, pointers(), workspace_size=0)
    workspace, first = space(needed), None
    for _ in range(10):
        plugin_on_gpu.run(case, call.addresses(workspace), workspace_size=needed, times=10)
        torch.cuda.synchronize()
        first = call.y.clone() if first is None else first
        assert torch.equal(call.y, first)
