"""Timing of whole ViTs, without a GPU: routing to a share, rows, int8, failures, and which parts run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from compiled_vit import Int8Linear, ViTBenchmark, budget, int8, route, row
from device_latency import part_names, parts_to_run
from device_timing import DeviceTiming
from random_vit import TINY, random_vit

from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from compiled_vit import Measured
    from torch import nn


@pytest.fixture(scope="module")
def acm() -> nn.Module:
    return random_vit(TINY, acm=True)


def images(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


def executed_share(model: nn.Module, batch: torch.Tensor) -> float:
    """From the op's own counts."""
    counts: list[float] = []

    def keep(layer: nn.Module, args: tuple[torch.Tensor, ...], _out: object) -> None:
        x = args[0]
        counts.append(float(layer.run(x, layer.gate_logits(x))[1].float().mean()) / layer.spec.num_learners)

    handles = [layer.register_forward_hook(keep) for _, layer in acm_layers(model)]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return float(np.mean(counts))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_routing_reaches_the_share_and_reports_what_the_op_runs(acm: nn.Module, share: float) -> None:
    beta = route(acm, images(0), share)
    assert beta == pytest.approx(share, abs=0.02)
    assert beta == pytest.approx(executed_share(acm, images(0)), abs=1e-6)


def test_the_budget_of_other_images_leaves_thresholds_alone(acm: nn.Module) -> None:
    route(acm, images(0), 0.5)
    before = [layer.thresholds.clone() for _, layer in acm_layers(acm)]
    beta = budget(acm, [images(1), images(2)])
    assert beta == pytest.approx(np.mean([executed_share(acm, images(seed)) for seed in (1, 2)]), abs=1e-6)
    assert all(torch.equal(a, layer.thresholds) for a, (_, layer) in zip(before, acm_layers(acm), strict=True))


def test_a_compiled_model_follows_thresholds_that_are_set_in_place(acm: nn.Module) -> None:
    compiled = torch.compile(acm, dynamic=False, backend="aot_eager")
    outputs = []
    with torch.no_grad():
        compiled(images(0))
        for share in (0.25, 1.0):
            route(acm, images(0), share)
            outputs.append(compiled(images(0)).logits)
            assert torch.allclose(outputs[-1], acm(images(0)).logits, atol=1e-5)
    assert not torch.allclose(*outputs, atol=1e-5)


def test_a_row_has_the_rates_of_both_models() -> None:
    made = row(32, "ACM", DeviceTiming(2000.0, 4000.0, 0.5, 0.49, 0.51), share=0.25, budget=0.26)
    assert (made.images_per_s, made.dense_images_per_s) == (16000.0, 8000.0)
    assert (made.us, made.dense_us, made.ratio, made.ratio_q25, made.ratio_q75) == (2000.0, 4000.0, 0.5, 0.49, 0.51)
    assert (made.share, made.budget) == (0.25, 0.26)


@pytest.mark.parametrize("bias", [True, False])
def test_an_int8_map_is_close_to_the_float_map(bias: bool) -> None:
    linear = torch.nn.Linear(64, 48, bias=bias)
    x = torch.randn(3, 20, 64)
    with torch.no_grad():
        expected, y = linear(x), Int8Linear(linear)(x)
    assert y.shape == expected.shape
    assert float((y - expected).abs().max()) < 0.02 * float(expected.abs().max())


def test_all_maps_except_the_classifier_become_int8() -> None:
    dense = random_vit(TINY, acm=False)
    names = {name for name, module in dense.named_modules() if isinstance(module, torch.nn.Linear)}
    quantised = int8(dense)
    replaced = {name for name, module in quantised.named_modules() if isinstance(module, Int8Linear)}
    assert replaced == names - {"classifier"}
    assert len(replaced) == 6 * TINY.layers
    with torch.no_grad():
        assert torch.allclose(quantised(images(0)).logits, dense(images(0)).logits, atol=0.02)


def benchmark(seconds: float, saved: list[int]) -> ViTBenchmark:
    def save(measured: Measured) -> None:
        saved.append(len(measured.rows))

    return ViTBenchmark(TINY, torch.float32, "cpu", 1, time.monotonic() + seconds, save)


@pytest.mark.slow
def test_every_row_is_saved_as_it_is_measured() -> None:
    saved: list[int] = []
    measured = benchmark(1000, saved).run((1,))
    assert [(r.model, r.share) for r in measured.rows] == [
        ("ACM", 0.5),
        ("ACM", 1.0),
        ("ACM", 0.25),
        ("ACM", 0.75),
        ("dense int8", None),
    ]
    assert [r.budget for r in measured.rows[:4]] == pytest.approx([0.5, 1.0, 0.25, 0.75], abs=0.03)
    assert not measured.problems
    assert set(saved) == {1, 2, 3, 4, 5}


def test_after_the_deadline_nothing_starts_and_the_reason_is_recorded() -> None:
    saved: list[int] = []
    measured = benchmark(-1, saved).run((2, 1))
    assert not measured.rows
    assert [(p.batch, p.step) for p in measured.problems] == [
        (2, "ACM"),
        (1, "ACM"),
        (2, "dense int8"),
        (1, "dense int8"),
    ]
    assert all("--seconds" in p.reason for p in measured.problems)
    assert len(saved) == 4


def test_a_model_that_does_not_compile_is_measured_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, **_options: object) -> object:
        def call(_images: torch.Tensor) -> object:
            raise ValueError(f"cannot compile {type(model).__name__}")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    measured = benchmark(1000, []).run((1,))
    assert len(measured.rows) == 5
    assert {p.step for p in measured.problems} == {"dense", "ACM", "dense int8"}
    assert all("without torch.compile: ValueError: cannot compile" in p.reason for p in measured.problems)


def test_a_step_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_model: nn.Module, _images: torch.Tensor, share: float) -> float:
        if share == 0.5:
            raise RuntimeError("out of memory")
        return share

    monkeypatch.setattr("compiled_vit.route", failing)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    measured = benchmark(1000, []).run((1,))
    assert [(p.step, p.reason) for p in measured.problems] == [("ACM, share 0.5", "RuntimeError: out of memory")]
    assert [r.share for r in measured.rows] == [1.0, 0.25, 0.75, None]


def test_by_default_pytorch_and_the_installed_runtimes_run() -> None:
    neither = {"onnxruntime": "no CUDA provider", "tensorrt85": "not given"}
    assert parts_to_run(None, neither) == ("pytorch",)
    assert parts_to_run(None, neither | {"tensorrt85": ""}) == ("pytorch", "files", "tensorrt85")
    assert parts_to_run(("onnxruntime",), neither) == ("files", "onnxruntime")
    assert parts_to_run(("files", "pytorch"), neither) == ("pytorch", "files")


def test_an_unknown_part_is_refused() -> None:
    assert part_names("pytorch,files") == ("pytorch", "files")
    with pytest.raises(argparse.ArgumentTypeError, match="unknown part 'torch'"):
        part_names("pytorch,torch")
