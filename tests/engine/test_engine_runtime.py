"""The runtime of engines, with fakes of TensorRT and the CUDA driver."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engine_builds import build, random_images
from exported_files import run as run_file
from plugin_build import compile_fake_plugin

from acm_export.base.errors import CudaError, EngineError, MissingDependencyError, UsageError
from acm_export.engine import host
from acm_export.engine.library import load_plugin
from acm_export.engine.runtime import Engine
from acm_export.runtimes import cuda_driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_context_runs_what_the_file_computes(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], library: Path, *, cuda_graph: bool
) -> None:
    import ctypes

    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    live = ctypes.CDLL(str(library)).fake_live
    before = live()
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    assert [(value.name, value.shape) for value in engine.inputs] == [
        ("pixel_values", ("batch", 1, 8, 8)),
        ("budget", ()),
    ]
    context = engine.context(cuda_graph=cuda_graph)
    for batch in (2, 5, 5, 1):  # grows, stays, shrinks
        images = random_images(batch)
        for budget in (0.5, 1.0):
            feeds = {"pixel_values": images.numpy(), "budget": np.array(budget, np.float32)}
            outputs, times = context.run(feeds)
            expected = run_file(files / "b.onnx", pixel_values=images, budget=_scalar(budget))
            np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-6)
            assert times.compute_ms == 1
            assert times.transfer_ms == 2 + len(engine.outputs)
            assert times.enqueue_ms > 0
    context.close()
    engine.close()
    assert live() == before


def _scalar(value: float) -> Any:
    import torch

    return torch.tensor(value)


def test_thresholds_can_be_inputs(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with()
    done = build(files, tmp_path / "m.plan", "--threshold-inputs", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["passport"]["comparison"]["settings"] == 3
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    layers = engine.passport.manifest.layers
    assert {value.name for value in engine.inputs} == {"pixel_values", *(layer.thresholds for layer in layers)}
    context = engine.context()
    for tau, share in ((np.inf, "min_learners"), (-np.inf, "num_learners")):
        dials = {layer.thresholds: np.full(layer.num_learners, tau, np.float32) for layer in layers}
        outputs, _ = context.run({"pixel_values": random_images(1).numpy()} | dials)
        for layer in layers:
            assert (outputs[f"counts/{layer.name}"] == getattr(layer, share)).all()
    context.close()
    engine.close()


def test_shapes_outside_the_profile_are_rejected(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan", "--max-shapes", "pixel_values:3x1x8x8").exit_code == 0
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    context, budget = engine.context(), {"budget": np.array(1, np.float32)}
    with pytest.raises(EngineError, match="from 1x1x8x8 to 3x1x8x8, but got 4x1x8x8"):
        context.run({"pixel_values": random_images(4).numpy()} | budget)
    with pytest.raises(EngineError, match=r"expected \?x1x8x8"):
        context.run({"pixel_values": random_images(2).numpy()[..., :4]} | budget)
    with pytest.raises(EngineError, match="needs the input budget"):
        context.run({"pixel_values": random_images(2).numpy()})
    assert context.run({"pixel_values": random_images(3).numpy()} | budget)[0]["logits"].shape[0] == 3
    context.close()
    engine.close()


def test_unusable_engines_are_rejected_before_tensorrt_loads_them(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    with pytest.raises(EngineError, match=r"libacm_gated_learners\.so, which does not exist"):
        Engine(tmp_path / "m.plan")
    machine_with("11.4.0.106")
    with pytest.raises(EngineError, match=r"for TensorRT 10.3.0; this machine has 11.4.0.106"):
        Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    with pytest.raises(UsageError, match=r"there is no file .*absent\.plan"):
        Engine(tmp_path / "absent.plan", files / "plugin-10.3.0.so")


def test_a_full_gpu_is_an_error_that_names_the_cause(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], library: Path
) -> None:
    import ctypes

    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    context = engine.context()
    ctypes.CDLL(str(library)).fake_memory(ctypes.c_size_t(300))
    try:
        with pytest.raises(CudaError, match="OUT_OF_MEMORY") as caught:
            context.run({"pixel_values": random_images(8).numpy(), "budget": np.array(1, np.float32)})
        assert "nvidia-smi" in str(caught.value.hint)
    finally:
        ctypes.CDLL(str(library)).fake_memory(ctypes.c_size_t(1 << 40))
        context.close()
        engine.close()


def test_a_missing_driver_or_tensorrt_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match="no CUDA driver"):
        cuda_driver.Driver("libabsent_cuda.so.1")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="TensorRT cannot be imported"):
        host.find_tensorrt(builder=False)


def test_engines_of_one_process_share_the_plugin(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    engines = [Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so") for _ in range(3)]  # loads it once
    for engine in engines:
        engine.close()
    (tmp_path / "other").mkdir()
    other = compile_fake_plugin(tmp_path / "other", "10.4.0")
    with pytest.raises(EngineError, match="not the plugin library that is already loaded"):
        load_plugin(sys.modules["tensorrt"], other)


@pytest.mark.parametrize(("version", "loads"), [("8.5.3.1", 3), ("8.6.1", 3), ("10.3.0", 1)])
def test_contexts_before_tensorrt_10_have_an_engine_each(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], version: str, loads: int
) -> None:
    if not (files / f"plugin-{version}.so").is_file():
        compile_fake_plugin(files, version)
    tensorrt = machine_with(version)
    seen: list[bytes] = []
    runtime_of = tensorrt.Runtime

    def counting(logger: Any) -> Any:
        made = runtime_of(logger)
        deserialize = made.deserialize_cuda_engine
        made.deserialize_cuda_engine = lambda content: seen.append(content) or deserialize(content)
        return made

    assert build(files, tmp_path / "m.plan", plugin=version).exit_code == 0
    tensorrt.Runtime = counting
    engine = Engine(tmp_path / "m.plan", files / f"plugin-{version}.so")
    contexts = [engine.context() for _ in range(3)]
    for context in contexts:
        context.close()
    engine.context().close()  # takes one that is free again
    assert len(seen) == loads
    engine.close()


def test_a_broken_device_does_not_hide_the_first_error(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    context = engine.context()
    monkeypatch.setattr(context._stream, "wait", lambda: context._driver.call("cuStreamSynchronize", 0))
    library = context._driver._library
    monkeypatch.setattr(library, "cuStreamSynchronize", lambda _stream: 700)  # an illegal address
    with pytest.raises(CudaError, match="cuStreamSynchronize failed"):
        context.run({"pixel_values": random_images(1).numpy(), "budget": np.array(1, np.float32)})
    context.close()
    engine.close()


def test_a_run_that_cannot_be_captured_is_reported(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    context = engine.context(cuda_graph=True)
    enqueue, calls = context._context.execute_async_v3, iter([True, False])
    monkeypatch.setattr(context._context, "execute_async_v3", lambda stream: next(calls) and enqueue(stream))
    with pytest.raises(EngineError, match="as a CUDA graph") as caught:
        context.run({"pixel_values": random_images(1).numpy(), "budget": np.array(1, np.float32)})
    assert caught.value.hint == "run without --cuda-graph"
    context.close()
    engine.close()
