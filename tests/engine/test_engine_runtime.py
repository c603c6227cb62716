"""Engines that run: doubles of TensorRT and the CUDA driver, with the real verb and the real runtime."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from calibration_files import calibrated, write_images
from click.testing import CliRunner
from engine_fake_runtime import DropsBias, IgnoresThresholds, RunsOneLearnerFewer
from engine_fake_tensorrt import fake
from exported_files import run as run_file
from plugin_build import compile_fake_driver, compile_fake_plugin
from tiny_models import tiny_vit

from acm_export.base.errors import CudaError, EngineError, MissingDependencyError, UsageError
from acm_export.cli import main
from acm_export.engine import host
from acm_export.engine.host import Platform
from acm_export.engine.library import load_plugin
from acm_export.engine.runtime import Engine
from acm_export.exporter import export
from acm_export.runtimes import cuda_driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSIONS = ("8.5.3.1", "10.3.0", "11.1.0")
HERE = Platform("10.3.0", "Orin", "sm_87")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_driver(tmp_path_factory.mktemp("driver"), "engine_fake_cuda.cpp")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, calibrated with a budget input, a dense one, and data."""
    folder = tmp_path_factory.mktemp("files")
    export(tiny_vit(), {"pixel_values": _images(2)}, folder / "m.onnx", verify=False)
    export(tiny_vit({}), {"pixel_values": _images(2)}, folder / "dense.onnx", verify=False)
    write_images(folder / "d.npz", 32)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), budget_input=True)
    for version in VERSIONS:
        compile_fake_plugin(folder, version)
    return folder


def _images(samples: int) -> Any:
    import torch

    return torch.from_numpy(np.random.default_rng(1).standard_normal((samples, 1, 8, 8)).astype(np.float32))


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch, library: Path) -> Callable[..., Any]:
    """Make this machine appear to have TensorRT and a GPU."""

    def put(version: str = HERE.tensorrt, **options: Any) -> Any:
        tensorrt, _ = fake(version, driver=library, **options)
        platform = Platform(version, HERE.gpu, HERE.arch)
        monkeypatch.setattr(host, "find_platform", lambda _: platform)
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
        monkeypatch.setattr(cuda_driver, "LIBRARY", str(library))
        return tensorrt

    return put


def build(files: Path, output: Path, *options: str, model: str = "b.onnx", plugin: str = HERE.tensorrt) -> Any:
    arguments = [
        "build-engine",
        str(files / model),
        "-o",
        str(output),
        "--plugin",
        str(files / f"plugin-{plugin}.so"),
        *options,
    ]
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", ["m.onnx", "b.onnx"])
def test_the_verb_compares_what_it_built(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], version: str, model: str
) -> None:
    machine_with(version)
    done = build(files, tmp_path / "m.plan", "--json", model=model, plugin=version)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["passport"]["comparison"]
    settings = 3 if model == "b.onnx" else 1
    assert (found["settings"], found["samples"], found["routed_differently"]) == (settings, settings, 0)
    assert found["error"] < 1e-5
    assert found["tokens"] > 0


def test_data_are_compared_in_batches_of_the_best_shape(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    done = build(files, tmp_path / "m.plan", "--data", str(files / "d.npz"), "--opt-shapes", "pixel_values:4x1x8x8")
    assert done.exit_code == 0, done.output
    assert "48 sample runs at 3 settings" in done.output


def _scale(outputs: dict[str, Any]) -> None:
    outputs["logits"] = outputs["logits"] * np.float32(1.01)


def _nan(outputs: dict[str, Any]) -> None:
    outputs["logits"] = np.where(np.arange(5) == 2, np.float32(np.nan), outputs["logits"])


def _count_too_low(outputs: dict[str, Any]) -> None:
    for name, counts in outputs.items():
        if name.startswith("counts/"):
            counts[:] = np.where(counts > 1, counts - 1, counts)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"change": _scale}, "outputs of the engine differ by"),
        ({"change": _nan}, "NaN or infinity"),
        ({"change": _count_too_low}, "standard deviations"),
        ({"op": DropsBias}, "outputs of the engine differ by"),
        ({"op": RunsOneLearnerFewer}, "standard deviations"),
        ({"op": IgnoresThresholds}, "standard deviations"),
    ],
)
def test_an_engine_that_computes_something_else_is_not_written(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], wrong: dict[str, Any], reason: str
) -> None:
    machine_with(**wrong)
    done = build(files, tmp_path / "m.plan")
    assert done.exit_code == 1
    assert reason in done.output
    assert list(tmp_path.iterdir()) == []
    assert build(files, tmp_path / "m.plan", "--no-check").exit_code == 0


def test_an_engine_without_counts(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with()
    done = build(files, tmp_path / "m.plan", "--no-counts")
    assert done.exit_code == 0, done.output
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    assert engine.outputs == ("logits",)
    assert engine.passport.comparison is not None
    assert engine.passport.comparison.routed_differently is None
    engine.close()


def test_a_dense_model_needs_no_plugin(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with(creator=False)
    done = CliRunner().invoke(main, ["build-engine", str(files / "dense.onnx"), "-o", str(tmp_path / "d.plan")])
    assert done.exit_code == 0, done.output
    engine = Engine(tmp_path / "d.plan")
    assert engine.passport.plugin is None
    engine.close()


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
        images = _images(batch)
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
        outputs, _ = context.run({"pixel_values": _images(1).numpy()} | dials)
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
        context.run({"pixel_values": _images(4).numpy()} | budget)
    with pytest.raises(EngineError, match=r"expected \?x1x8x8"):
        context.run({"pixel_values": _images(2).numpy()[..., :4]} | budget)
    with pytest.raises(EngineError, match="needs the input budget"):
        context.run({"pixel_values": _images(2).numpy()})
    assert context.run({"pixel_values": _images(3).numpy()} | budget)[0]["logits"].shape[0] == 3
    context.close()
    engine.close()


def test_unusable_engines_are_rejected_before_tensorrt_loads_them(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    assert build(files, tmp_path / "m.plan").exit_code == 0
    with pytest.raises(EngineError, match=r"libacm_gated_learners\.so, which does not exist"):
        Engine(tmp_path / "m.plan")
    machine_with("11.1.0")
    with pytest.raises(EngineError, match=r"for TensorRT 10.3.0; this machine has 11.1.0"):
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
            context.run({"pixel_values": _images(8).numpy(), "budget": np.array(1, np.float32)})
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
        context.run({"pixel_values": _images(1).numpy(), "budget": np.array(1, np.float32)})
    context.close()
    engine.close()


def test_data_that_do_not_fit_the_profile_are_rejected_before_the_build(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    write_images(tmp_path / "ten.npz", 10)
    shapes = ("--min-shapes", "pixel_values:4x1x8x8", "--opt-shapes", "pixel_values:8x1x8x8")
    done = build(files, tmp_path / "m.plan", "--data", str(tmp_path / "ten.npz"), *shapes)
    assert done.exit_code == 0, done.output  # the last two are left out
    assert "24 sample runs" in done.output
    write_images(tmp_path / "two.npz", 2)
    done = build(files, tmp_path / "n.plan", "--data", str(tmp_path / "two.npz"), *shapes)
    assert done.exit_code == 2
    assert "fewer samples than the batch of 8" in done.output


@pytest.mark.parametrize("option", ["--save-onnx", "--timing-cache"])
def test_outputs_never_replace_inputs_or_each_other(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], option: str
) -> None:
    machine_with()
    before = (files / "b.onnx").read_bytes()
    for path in (files / "b.onnx", tmp_path / "m.plan", tmp_path / "m.plan.json"):
        done = build(files, tmp_path / "m.plan", option, str(path))
        assert done.exit_code == 2, done.output
    assert (files / "b.onnx").read_bytes() == before
    (tmp_path / "m.plan.json").mkdir()
    assert build(files, tmp_path / "m.plan").exit_code == 1
    assert not (tmp_path / "m.plan").exists()


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
        context.run({"pixel_values": _images(1).numpy(), "budget": np.array(1, np.float32)})
    assert caught.value.hint == "run without --cuda-graph"
    context.close()
    engine.close()
