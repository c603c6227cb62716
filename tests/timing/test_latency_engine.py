"""``latency`` of engines, with fakes of TensorRT and the CUDA driver."""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner, Result
from doctor_surroundings import Surroundings
from engine_fake_tensorrt import fake
from exported_files import images
from plugin_build import compile_fake_driver, compile_fake_plugin

from acm_export.base.errors import CudaError
from acm_export.base.files import sha256_of
from acm_export.cli import main
from acm_export.engine import host, runtime
from acm_export.engine.host import Platform
from acm_export.engine.passport import passport_path
from acm_export.exporter import export
from acm_export.runtimes import cuda_driver
from acm_export.timing import environment, latency, warm_up
from acm_export.timing.environment import Device

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "10.3.0"
ORIN = Platform(VERSION, "Orin", "sm_87")
FILES = {
    "budget.plan": ("b.onnx", ()),
    "thresholds.plan": ("b.onnx", ("--threshold-inputs",)),
    "fixed.plan": ("m.onnx", ()),
    "silent.plan": ("b.onnx", ("--threshold-inputs", "--no-counts")),
    "dense.plan": ("dense.onnx", ()),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_driver(tmp_path_factory.mktemp("driver"), "engine_fake_cuda.cpp")


@functools.cache
def tensorrt(version: str, library: Path) -> Any:
    """One module for all tests: its engines know their profile only from the builder that made them."""
    return fake(version, driver=library)[0]


def furnish(patch: pytest.MonkeyPatch, library: Path, place: Platform = ORIN) -> None:
    """Make this machine appear to have TensorRT and a GPU."""
    patch.setitem(sys.modules, "tensorrt", tensorrt(place.tensorrt, library))
    patch.setattr(host, "find_platform", lambda _: place)
    patch.setattr(cuda_driver, "LIBRARY", str(library))
    patch.setattr(environment, "gpu", lambda: Device(place.gpu, place.arch))
    patch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    patch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vit_files: Path, library: Path) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    shutil.copytree(vit_files, folder, dirs_exist_ok=True)
    export(torch.nn.Linear(8, 8), images(2), folder / "other.onnx", verify=False)
    write_images(folder / "d.npz", 40)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), solver="uniform", budget_input=True)
    compile_fake_plugin(folder, VERSION).rename(folder / "libacm_gated_learners.so")
    with pytest.MonkeyPatch.context() as patch:
        furnish(patch, library)
        for name, (model, options) in FILES.items():
            library_file = str(folder / "libacm_gated_learners.so")
            arguments = ["build-engine", str(folder / model), "-o", str(folder / name), "--plugin", library_file]
            built = CliRunner().invoke(main, [*arguments, *options, "--no-check"])
            assert built.exit_code == 0, built.output
    return folder


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    furnish(monkeypatch, library)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["latency", *map(str, args)])


def measured(*args: object) -> Any:
    result = run(*args, "--runs", 3, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def rows(content: Any) -> list[tuple[str, float | None]]:
    return [(r["routing"], r["budget_requested"]) for r in content["runs"]]


def test_the_budget_is_fed_if_the_engine_takes_one(folder: Path, library: Path) -> None:
    live = ctypes.CDLL(str(library)).fake_live
    before = live()
    content = measured(folder / "budget.plan", "--budgets", "0.4,0.5", "--data", folder / "d.npz", "--batch", "1,4")
    assert live() == before
    assert rows(content) == [("data", 0.4), ("data", 0.5)] * 2
    assert content["runtime"] == {"name": "tensorrt", "version": VERSION, "provider": "TensorRT"}
    assert content["device"]["name"] == "Orin"
    assert content["model"]["sha256"] == sha256_of(folder / "budget.plan")
    assert content["source"] == {"file": "b.onnx", "sha256": sha256_of(folder / "b.onnx")}
    for r in content["runs"]:
        assert r["budget_measured"] == pytest.approx(r["budget_requested"], abs=0.1)  # a handful of samples
        assert (r["device_ms"]["p50"], r["transfer_ms"]["p50"]) == (1, 2 + 4)  # as the fake driver's clock ticks
        assert r["enqueue_ms"]["n"] == 3
    assert any("controlled routing (skewed, least, most) is left out" in warning for warning in content["warnings"])


def test_the_budget_of_an_engine_is_that_of_the_file_it_was_built_from(folder: Path) -> None:
    args = ("--budgets", "0.5", "--data", folder / "d.npz", "--batch", 5)
    engine, file = measured(folder / "budget.plan", *args), measured(folder / "b.onnx", *args)
    assert engine["runs"][0]["budget_measured"] == pytest.approx(file["runs"][0]["budget_measured"])


@pytest.mark.slow
def test_thresholds_as_inputs_allow_every_routing(folder: Path) -> None:
    args = ("--budgets", "0.5", "--data", folder / "d.npz", "--onnx", folder / "b.onnx")
    content = measured(folder / "thresholds.plan", *args)
    assert rows(content) == [("data", 0.5), ("skewed", 0.5), ("least", None), ("most", None)]
    budgets = [r["budget_measured"] for r in content["runs"]]
    assert budgets[2] < budgets[0] < budgets[3] == 1
    assert budgets[1] == pytest.approx(budgets[0], abs=0.1)
    assert content["fit"]["r2"] is not None
    alone = run(folder / "thresholds.plan", "--threshold", 0, "--runs", 3, "--json")
    assert rows(json.loads(alone.stdout)) == [("data", None), ("least", None), ("most", None)]
    assert "skewed routing is left out: it needs gate logits" in alone.stderr


def test_without_counts_budgets_are_null_or_come_from_the_file(folder: Path) -> None:
    content = measured(folder / "silent.plan", "--budgets", "0.5")
    assert {r["budget_measured"] for r in content["runs"]} == {None}
    assert content["fit"]["r2"] is None
    assert any("β was not measured" in warning for warning in content["warnings"])
    content = measured(folder / "silent.plan", "--budgets", "0.5", "--onnx", folder / "b.onnx")
    assert [r["routing"] for r in content["runs"]] == ["data", "skewed", "least", "most"]
    assert content["runs"][-1]["budget_measured"] == 1


def test_a_fixed_engine_is_timed_as_built(folder: Path) -> None:
    content = measured(folder / "fixed.plan", "--cuda-graph", "--streams", 2)
    assert rows(content) == [("data", None)]
    assert content["runs"][0]["budget_measured"] > 0
    assert content["runs"][0]["host_ms"]["n"] == 2 * 3
    assert content["cuda_graph"] is True


def test_the_tables_show_the_time_breakdown(folder: Path) -> None:
    shown = run(folder / "fixed.plan", "--runs", 2, "--streams", 2, "--cuda-graph").stdout
    assert f"fixed.plan: tensorrt {VERSION}, TensorRT, Orin, 2 concurrent streams, CUDA graphs, ms" in " ".join(
        shown.split()
    )
    assert "time breakdown (ms)" in shown
    assert "device p50" in shown
    assert "transfer p50" in shown


@pytest.mark.parametrize("passport", [True, False])
def test_any_engine_with_the_same_inputs_is_a_baseline(folder: Path, passport: bool) -> None:
    path = folder / "dense.plan"
    if not passport:
        path = folder / "foreign.plan"
        path.write_bytes((folder / "dense.plan").read_bytes())
    content = measured(folder / "budget.plan", "--budgets", "0.5", "--baseline", path)
    (row,) = content["baseline"]["runs"]
    assert row["ratio"] == pytest.approx(content["runs"][0]["host_ms"]["p50"] / row["host_ms"]["p50"])
    assert row["device_ms"]["p50"] == 1
    assert row["throughput"] > 0


def test_wrong_options_are_refused_before_anything_is_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(latency, "time_runs", no_work)
    b = folder / "budget.plan"
    cases: tuple[tuple[tuple[object, ...], int, str], ...] = (
        ((folder / "fixed.plan", "--budgets", "0.5"), 2, "has fixed thresholds"),
        ((folder / "fixed.plan", "--threshold", "1"), 2, "has fixed thresholds"),
        ((b, "--budgets", "0.01"), 2, "is outside the table of budget.plan"),
        ((b, "--threshold", "1"), 2, "computes its thresholds from its input budget"),
        ((b, "--batch", "1,9"), 2, "from 1x1x8x8 to 8x1x8x8, not for 9x1x8x8"),
        ((b, "--onnx", folder / "m.onnx"), 2, "was built from b.onnx, SHA-256"),
        ((b, "--baseline", folder / "dense.onnx"), 2, "is an ONNX file"),
        ((b, "--baseline", folder / "none.plan"), 2, "there is no file"),
        ((folder / "dense.plan",), 1, "has no gated learners"),
        ((folder / "none.plan",), 2, "there is no file"),
        ((b, "--plugin", folder / "d.npz"), 1, "was modified or replaced"),
        ((folder / "b.onnx", "--plugin", folder / "d.npz"), 2, "--plugin does not apply to --runtime onnxruntime"),
    )
    for args, code, reason in cases:
        result = run(*args)
        assert result.exit_code == code, (args, result.stderr)
        assert reason in result.stderr
    passport_path(folder / "foreign2.plan").write_text("{}")
    (folder / "foreign2.plan").write_bytes(b"x")
    assert "has schema None" in run(folder / "foreign2.plan").stderr


def test_an_engine_of_another_gpu_or_version_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    furnish(monkeypatch, library, Platform("11.4.0.106", "Orin", "sm_87"))
    result = run(folder / "budget.plan")
    assert (result.exit_code, "for TensorRT 10.3.0; this machine has 11.4.0.106" in result.stderr) == (1, True)
    furnish(monkeypatch, library, Platform(VERSION, "Thor", "sm_110"))
    result = run(folder / "budget.plan")
    assert (result.exit_code, "on the GPU Orin (sm_87); this machine has Thor (sm_110)" in result.stderr) == (1, True)


def test_other_processes_on_the_gpu_are_named_with_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    around = Surroundings(tmp_path, monkeypatch)
    around.tool("nvidia-smi", "case $1 in *compute-apps*) echo '7, /opt/other, 99 MiB';; esac")
    content = measured(folder / "fixed.plan")
    assert any("also used by /opt/other (process 7, 99 MiB)" in warning for warning in content["warnings"])
    monkeypatch.setattr(
        runtime.ExecutionContext, "run", lambda *_: (_ for _ in ()).throw(CudaError("out of memory", "free some"))
    )
    failed = run(folder / "fixed.plan")
    assert failed.exit_code == 1
    assert "hint: free some; the GPU is also used by /opt/other (process 7, 99 MiB)" in failed.stderr


def test_times_of_trtexec_name_the_file_of_the_engine(folder: Path, tmp_path: Path) -> None:
    entry = dict.fromkeys(
        (
            "startEnqMs",
            "endEnqMs",
            "startH2dMs",
            "startComputeMs",
            "endComputeMs",
            "endD2hMs",
            "h2dMs",
            "computeMs",
            "d2hMs",
            "latencyMs",
        ),
        1.0,
    )
    (tmp_path / "t.json").write_text(json.dumps([entry]))
    result = run(folder / "budget.plan", "--trtexec-times", tmp_path / "t.json", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["source"] == {"file": "b.onnx", "sha256": sha256_of(folder / "b.onnx")}
