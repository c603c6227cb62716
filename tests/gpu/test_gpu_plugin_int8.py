"""The int8 operator in the plugin's core, and in the plugin where TensorRT's headers are found, on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from kernel_int8 import exact_int8_inputs, exact_y, random_int8_inputs
from plugin_build import build, each_header_set
from plugin_cases import QuantizedCase
from plugin_core import Core, CPointers, Layer, pointers
from plugin_harness import Harness
from plugin_packed import packed

from acm_export.base.errors import KernelError
from acm_export.op.quantized_reference import quantized_gated_learners
from acm_export.op.quantized_signature import QUANTIZED_INPUTS, QuantizedSignature
from acm_export.op.routing import learner_counts
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels.pack import default_folder, read_pack

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

DRIVER = "libcuda.so.1"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CASES = [
    QuantizedCase(
        leading=leading,
        model_dim=model_dim,
        hidden_dim=hidden_dim,
        num_learners=n,
        min_learners=m,
        dtype=dtype,
        activation=activation,
    )
    for leading in ((1,), (12,), (197,), (2, 700))
    for model_dim, hidden_dim in ((256, 128), (65, 24))
    for n, m in ((4, 0), (8, 2))
    for dtype, activation in (("float16", "relu"), ("bfloat16", "identity"), ("float32", "relu"))
]


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
    """A case with its tensors on the device, as TensorRT has them."""

    def __init__(self, case: QuantizedCase, *, exact: bool = True, seed: int = 0) -> None:
        self.case, rng = case, np.random.default_rng(seed)
        self.signature = QuantizedSignature(case.num_learners, case.min_learners, case.activation)
        draw = exact_int8_inputs if exact else random_int8_inputs
        sizes = (case.leading, case.model_dim, case.hidden_dim)
        self.feeds: dict[str, Any] = draw(rng, *sizes, self.signature, DTYPES[case.dtype])
        self.inputs = {
            name: torch.frombuffer(bytearray(content), dtype=torch.uint8).cuda()
            for name, content in packed(self.feeds).items()
        }
        self._y = torch.full((self.feeds["x"].nbytes,), 0xFF, dtype=torch.uint8, device="cuda")
        self._counts = torch.full((case.problem.tokens,), -1, dtype=torch.int32, device="cuda")

    def addresses(self, workspace: torch.Tensor) -> CPointers:
        """On the stream that is current now."""
        given = {name: self.inputs[name].data_ptr() for name in QUANTIZED_INPUTS}
        outputs = {"y": self._y.data_ptr(), "counts": self._counts.data_ptr(), "workspace": workspace.data_ptr()}
        return pointers(QUANTIZED_INPUTS, **given, **outputs, stream=torch.cuda.current_stream().cuda_stream)

    @property
    def y(self) -> np.ndarray:
        torch.cuda.synchronize()
        content = self._y.cpu().numpy().tobytes()
        return np.frombuffer(content, DTYPES[self.case.dtype]).reshape(self.feeds["x"].shape)

    def check(self) -> None:
        """Every bit of inputs whose steps are exact."""
        y = self.y
        counts = learner_counts(self.feeds["gate_logits"], self.feeds["thresholds"], self.case.min_learners)
        np.testing.assert_array_equal(self._counts.cpu().numpy(), counts.reshape(-1))
        np.testing.assert_array_equal(y.astype(np.float64), exact_y(self.feeds, self.signature).astype(np.float64))


def space(size: int) -> torch.Tensor:
    """A workspace that was never written."""
    return torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")


def prepared(core: Core, case: QuantizedCase) -> tuple[Layer, torch.Tensor]:
    torch.zeros(1, device="cuda")  # makes a context current
    layer = core.layer(case)
    assert layer.prepare(case.tensors()), core.error
    return layer, space(layer.workspace(case.tensors()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_core_agrees_in_every_bit(core_on_gpu: Core, case: QuantizedCase) -> None:
    call = Call(case)
    layer, workspace = prepared(core_on_gpu, case)
    assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
    call.check()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_core_agrees_with_the_reference(core_on_gpu: Core, activation: str) -> None:
    case = QuantizedCase(leading=(150,), model_dim=80, hidden_dim=48, activation=activation, dtype="float32")
    call = Call(case, exact=False)
    layer, workspace = prepared(core_on_gpu, case)
    assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
    expected, _ = quantized_gated_learners(**call.feeds, signature=call.signature)
    error = np.abs(call.y - expected)
    assert error.max() <= 3 * 127 * call.feeds["s2"].max()  # a few hidden values may be off by 1
    assert np.mean(error > 1e-4) < 0.05


@pytest.mark.parametrize("leading", [(40,), (2, 700)])
def test_every_tactic_computes_the_same(core_on_gpu: Core, leading: tuple[int, ...]) -> None:
    case = QuantizedCase(leading=leading, model_dim=256, hidden_dim=128, activation="relu")
    layer, workspace = prepared(core_on_gpu, case)
    for tactic in layer.tactics(case.tensors()):
        call = Call(case, seed=tactic)
        assert layer.set_tactic(tactic)
        assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
        call.check()


def test_a_captured_enqueue_follows_new_inputs(core_on_gpu: Core) -> None:
    case = QuantizedCase(leading=(3000,), model_dim=256, hidden_dim=128, activation="relu")
    call, (layer, workspace) = Call(case), prepared(core_on_gpu, case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert layer.enqueue(case.tensors(), call.addresses(workspace)), core_on_gpu.error
    for seed in range(1, 4):
        fresh = Call(case, seed=seed)
        call.feeds = fresh.feeds
        for name, tensor in call.inputs.items():
            tensor.copy_(fresh.inputs[name])
        graph.replay()
        call.check()


@each_header_set()
@pytest.mark.parametrize("case", CASES[:12], ids=str)
def test_the_plugin_agrees_in_every_bit(plugin_on_gpu: Harness, case: QuantizedCase) -> None:
    if case.dtype == "bfloat16" and not plugin_on_gpu.is_v3:
        pytest.skip("TensorRT 8 has no bfloat16")
    call = Call(case)
    needed = plugin_on_gpu.run(case, pointers(QUANTIZED_INPUTS), workspace_size=0)
    assert needed > 0, plugin_on_gpu.take_log()
    ran = plugin_on_gpu.run(case, call.addresses(space(needed)), workspace_size=needed, times=5)
    assert ran == needed, plugin_on_gpu.take_log()
    call.check()
