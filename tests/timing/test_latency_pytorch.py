"""``latency`` of checkpoints in PyTorch: on the CPU, and on a GPU with a fake of ``torch.cuda``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner, Result
from tiny_models import tiny_vit

from acm_export.base.files import sha256_of
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.cli import main
from acm_export.data.batches import GraphInput
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.timing import latency, warm_up
from acm_export.timing.backends import pytorch_contexts as contexts
from acm_export.timing.backends.backend import NO_DEVICE_TIMES, DeviceTimes
from acm_export.timing.backends.pytorch_contexts import CudaContext, PytorchModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pytorch")
    torch.manual_seed(0)
    save_checkpoint(tiny_vit(), folder / "acm", source={})
    save_checkpoint(tiny_vit(), folder / "again", source={})
    save_checkpoint(tiny_vit({}), folder / "dense", source={})
    for name, options in (("m", ()), ("t", ("--target", "tensorrt"))):
        done = run("export", folder / "acm", "-o", folder / f"{name}.onnx", "--no-verify", *options)
        assert done.exit_code == 0, done.stderr
    write_images(folder / "d.npz", 20)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), solver="uniform", budget_input=True)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


def test_a_checkpoint_is_timed_with_a_dense_baseline(folder: Path) -> None:
    result = run(
        "latency",
        folder / "b.onnx",
        "--runtime",
        "pytorch",
        "--checkpoint",
        folder / "acm",
        "--budgets",
        "0.5",
        "--data",
        folder / "d.npz",
        "--baseline",
        folder / "dense",
        "--runs",
        3,
        "--streams",
        2,
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["runtime"] == {"name": "pytorch", "version": torch.__version__, "provider": "CPU"}
    assert [r["routing"] for r in content["runs"]] == ["data", "skewed", "least", "most"]
    assert content["runs"][0]["budget_measured"] == pytest.approx(0.5, abs=0.1)
    assert {(r["device_ms"], r["host_ms"]["n"]) for r in content["runs"]} == {(None, 6)}
    weights = sha256_of(folder / "dense" / "model.safetensors")
    assert content["baseline"]["model"] == {"file": str(folder / "dense"), "sha256": weights}


def test_wrong_options_are_refused_before_anything_is_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(latency, "time_runs", no_work)
    m, pytorch = folder / "m.onnx", ("--runtime", "pytorch", "--checkpoint", folder / "acm")
    digest = load_checkpoint(folder / "again").sha256
    cases: tuple[tuple[tuple[object, ...], int, str], ...] = (
        ((m, "--runtime", "pytorch"), 2, "runs the checkpoint that MODEL was exported from"),
        ((m, "--checkpoint", folder / "acm"), 2, "--checkpoint does not apply to --runtime onnxruntime"),
        ((m, *pytorch[:-1], folder / "again"), 2, f"have {digest}"),
        ((m, *pytorch[:-1], folder / "none"), 2, "there is no folder"),
        ((m, *pytorch, "--baseline", folder / "none"), 2, "there is no folder"),
        ((m, *pytorch, "--baseline", m), 1, "is an ONNX file, not a checkpoint folder"),
        ((m, *pytorch, "--cuda-graph"), 2, "pytorch cannot launch CUDA graphs here"),
    )
    for args, code, reason in cases:
        result = run("latency", *args)
        assert result.exit_code == code, (args, result.stderr)
        assert reason in result.stderr


def test_files_for_any_target_name_their_checkpoint(folder: Path) -> None:
    args = ("--runtime", "pytorch", "--checkpoint", folder / "acm", "--runs", 1)
    result = run("latency", folder / "t.onnx", *args)
    assert result.exit_code == 0, result.stderr


class Wrapped(torch.nn.Module):
    """Wraps a module as the exporter does, and counts the calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        return (self.module(x),)


X = (GraphInput("x", ("batch", 3, 8), np.dtype(np.float32)),)


@pytest.fixture
def layer() -> Wrapped:
    return Wrapped(torch.nn.Sequential(ACMLayer(ACMSpec(8, 3, 4))))


def feeds(value: float, **dials: Any) -> dict[str, Any]:
    return {"x": np.full((2, 3, 8), value, np.float32), **dials}


def test_thresholds_are_written_when_they_change(layer: Wrapped) -> None:
    runtime = PytorchModel(layer, X, torch.device("cpu"))
    context, held = runtime.context(), next(acm_layers(layer))[1].thresholds
    first = np.array([1, 2, 3], np.float32)
    assert context.run(feeds(1, **{"0.thresholds": first})) == NO_DEVICE_TIMES
    assert held.tolist() == [1, 2, 3]
    held.fill_(7)
    context.run(feeds(2, **{"0.thresholds": first}))
    assert held.tolist() == [7, 7, 7]  # the same array again costs nothing
    context.run(feeds(2, **{"0.thresholds": np.array([4, 5, 6], np.float32)}))
    assert held.tolist() == [4, 5, 6]
    context.run(feeds(2))
    assert held.tolist() == [4, 5, 6]


class FakeCuda:
    """Names of ``torch.cuda``: events read a clock that each record advances; graphs call the module."""

    def __init__(self, module: Wrapped) -> None:
        self.now, self.module, self.captured = 0.0, module, 0
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at = -1.0

            def record(self) -> None:
                outer.now += 1.5
                self.at = outer.now

            def synchronize(self) -> None:
                assert self.at >= 0

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        class CUDAGraph:
            inputs: Any
            outputs: Any

            def replay(self) -> None:
                calls = outer.module.calls
                outer.now += 4
                with torch.inference_mode():
                    self.outputs.copy_(outer.module(self.inputs)[0])
                outer.module.calls = calls  # a graph does not come through Python

        self.Event, self.CUDAGraph = Event, CUDAGraph

    class Stream:
        def synchronize(self) -> None:
            """Nothing runs."""

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        assert isinstance(stream, FakeCuda.Stream)
        yield

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        assert isinstance(stream, FakeCuda.Stream)
        self.captured += 1
        forward = self.module.forward

        def recording(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            (graph.outputs,) = outputs = forward(x)
            graph.inputs = x
            return outputs

        self.module.forward = recording  # type: ignore[method-assign]
        yield
        self.module.forward = forward  # type: ignore[method-assign]

    def is_available(self) -> bool:
        return False

    def synchronize(self) -> None:
        """Nothing runs."""


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_device_times_lie_between_events(layer: Wrapped, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool) -> None:
    fake = FakeCuda(layer)
    monkeypatch.setattr(contexts, "cuda", fake)
    monkeypatch.setattr(contexts, "perf_counter", lambda: fake.now / 1e3)
    runtime = PytorchModel(layer, X, torch.device("cpu"))
    context = CudaContext(runtime, cuda_graph=cuda_graph)
    assert context.run(feeds(1)) == DeviceTimes(5.5 if cuda_graph else 1.5, pytest.approx(4 if cuda_graph else 0), 3.0)


def test_a_graph_is_captured_once_for_each_shape_and_computes_the_same(
    layer: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCuda(layer)
    monkeypatch.setattr(contexts, "cuda", fake)
    runtime = PytorchModel(layer, X, torch.device("cpu"))
    context = CudaContext(runtime, cuda_graph=True)
    for value in (1.0, 2.0, 3.0):
        for tau in (0.0, np.inf):
            context.run(feeds(value, **{"0.thresholds": np.full(3, tau, np.float32)}))
            (buffers,) = context._buffers.values()
            with torch.inference_mode():
                (expected,) = layer(torch.full((2, 3, 8), value))
            torch.testing.assert_close(buffers.results[0], expected)
    assert fake.captured == 1
    calls = layer.calls
    context.run({"x": np.zeros((5, 3, 8), np.float32)})
    assert fake.captured == 2
    assert layer.calls == calls + 3 + 1  # to warm up, and to capture
    context.run({"x": np.ones((5, 3, 8), np.float32)})
    assert layer.calls == calls + 4
    assert len(context._buffers) == 1
    context.close()


def test_buffers_of_all_lengths_are_kept_without_a_graph(layer: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "cuda", FakeCuda(layer))
    context = CudaContext(PytorchModel(layer, X, torch.device("cpu")), cuda_graph=False)
    for length in (3, 5, 3, 5):
        context.run({"x": np.ones((1, length, 8), np.float32)})
    assert sorted(context._buffers) == [((1, 3, 8),), ((1, 5, 8),)]
    context.close()
