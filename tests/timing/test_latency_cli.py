"""The verb ``latency`` from the command line, on a tiny model; no test depends on how long a run takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner, Result
from exported_files import images
from tiny_models import tiny_vit

from acm_export.base.files import sha256_of
from acm_export.calibration.budgets import budget_of_latency
from acm_export.cli import main
from acm_export.cli.latency import _RUNTIMES
from acm_export.exporter import export
from acm_export.timing import latency, warm_up
from acm_export.timing.backends import BACKENDS
from acm_export.timing.request import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

STATISTICS = ["mean", "std", "p50", "p90", "p95", "p99", "max", "n"]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    torch.manual_seed(0)
    shutil.copytree(vit_files, folder, dirs_exist_ok=True)
    export(tiny_vit(), images(2), folder / "tensorrt.onnx", verify=False, output_fields=("logits",), target="tensorrt")
    export(torch.nn.Linear(8, 8), images(2), folder / "other.onnx", verify=False)
    write_images(folder / "d.npz", 40)
    options: dict[str, Any] = {"solver": "uniform"}
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "c.onnx", (0.5,), **options)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), budget_input=True, **options)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


def test_the_result_has_every_field_and_calibration_reads_it(folder: Path) -> None:
    output, picture = folder / "r.json", folder / "r.svg"
    result = run(
        "latency",
        folder / "c.onnx",
        "--budgets",
        "0.4,0.6",
        "--data",
        folder / "d.npz",
        "--baseline",
        folder / "dense.onnx",
        "--batch",
        "1,4",
        "--runs",
        5,
        "-o",
        output,
        "--plot",
        picture,
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content == json.loads(output.read_text())
    assert list(content) == [
        "schema",
        "model",
        "runtime",
        "device",
        "command",
        "time",
        "runs",
        "fit",
        "baseline",
        "warnings",
        "partial",
        "error",
        "source",
        "cuda_graph",
        "failures",
        "baseline_int8",
        "precision",
    ]
    assert content["model"] == {"file": str(folder / "c.onnx"), "sha256": sha256_of(folder / "c.onnx")}
    assert content["runtime"]["provider"] == "CPUExecutionProvider"
    assert list(content["device"]) == ["name", "arch", "clocks", "power_mode", "driver"]
    assert list(content["fit"]) == ["fixed_ms", "ms_per_budget", "r2"]
    assert content["partial"] is False
    expected = [
        (batch, *row)
        for batch in (1, 4)
        for row in (
            ("data", 0.4),
            ("skewed", 0.4),
            ("data", 0.6),
            ("skewed", 0.6),
            ("least", None),
            ("most", None),
        )
    ]
    runs = content["runs"]
    assert [(r["inputs"]["pixel_values"][0], r["routing"], r["budget_requested"]) for r in runs] == expected
    for r in runs:
        assert list(r["host_ms"]) == STATISTICS
        assert r["host_ms"]["n"] == 5
        assert r["device_ms"] is None
    assert len(content["baseline"]["runs"]) == len(runs)
    for r, b in zip(runs, content["baseline"]["runs"], strict=True):
        assert b["ratio"] == pytest.approx(r["host_ms"]["p50"] / b["host_ms"]["p50"])
    assert "<svg" in picture.read_text()
    content["fit"] = {"fixed_ms": 1.0, "ms_per_budget": 2.0, "r2": 1.0}  # the tiny model's own line is noise
    output.write_text(json.dumps(content))
    assert budget_of_latency(2.0, output, folder / "c.onnx") == 0.5


@pytest.mark.parametrize("name", ["c.onnx", "b.onnx"])
def test_budgets_are_measured_from_the_counts_of_the_same_inputs(folder: Path, name: str) -> None:
    args = ("--budgets", "0.5", "--data", folder / "d.npz", "--batch", 5, "--runs", 2, "--json")
    result = run("latency", folder / name, *args)
    assert result.exit_code == 0, result.stderr
    measured = {r["routing"]: r["budget_measured"] for r in json.loads(result.stdout)["runs"]}
    assert measured["data"] == pytest.approx(0.5, abs=0.03)
    assert measured["skewed"] == pytest.approx(measured["data"], abs=0.03)
    manifest = json.loads(run("inspect", folder / name, "--json").stdout)["manifest"]
    flops = [(e["tokens"] * e["learner_flops"], e["num_learners"], e["min_learners"]) for e in manifest["layers"]]
    least = sum(f * low for f, _, low in flops) / sum(f * n for f, n, _ in flops)
    assert measured["least"] == pytest.approx(least)
    assert measured["most"] == 1


def test_without_budgets_the_model_is_timed_as_set_with_random_inputs(folder: Path) -> None:
    result = run("latency", folder / "m.onnx", "--runs", 2, "--batch", 2)
    assert result.exit_code == 0, result.stderr
    assert "inputs are random" in result.stderr
    assert "p99 is the maximum" in result.stderr
    assert "most" in result.stdout
    assert "target β" not in result.stdout
    assert "no budgets requested: data ran at the thresholds of the file" in result.stdout
    with_threshold = run("latency", folder / "m.onnx", "--runs", 2, "--threshold", "1", "--json")
    assert json.loads(with_threshold.stdout)["runs"][0]["budget_requested"] is None


def test_failed_assertions_and_regressions_exit_with_1(folder: Path) -> None:
    args = ("latency", folder / "c.onnx", "--budgets", "0.5", "--data", folder / "d.npz", "--runs", 5)
    failed = run(*args, "--assert-p99", "0.000001ms@0.5", "-o", folder / "old.json")
    assert failed.exit_code == 1
    assert "asserted 1e-06 ms: data at 0.5, batch 1" in failed.stderr
    assert run(*args, "--assert-p99", "1e9ms@0.5").exit_code == 0
    old = json.loads((folder / "old.json").read_text())
    for factor, code in ((1e-6, 1), (1e6, 0)):
        for r in old["runs"]:
            r["host_ms"]["p50"] *= factor
        (folder / "scaled.json").write_text(json.dumps(old))
        compared = run(*args, "--compare", folder / "scaled.json", "--max-regression", "5%")
        assert compared.exit_code == code, compared.stderr
        assert ("the median went from" in compared.stderr) == (code == 1)
        for r in old["runs"]:
            r["host_ms"]["p50"] /= factor
    other = run("latency", folder / "b.onnx", "--budgets", "0.5", "--compare", folder / "old.json")
    assert other.exit_code == 2
    for name in ("b.onnx", "c.onnx"):
        assert sha256_of(folder / name) in other.stderr
    nothing = run("latency", folder / "c.onnx", "--budgets", "0.6", "--batch", 3, "--compare", folder / "old.json")
    assert (nothing.exit_code, "none of these runs" in nothing.stderr) == (2, True)


def test_wrong_options_are_refused_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(latency, "time_runs", no_work)
    c, m = folder / "c.onnx", folder / "m.onnx"
    (folder / "bad.json").write_text("{}")
    (folder / "bad").mkdir()
    wrong = write_images(folder / "wrong.npz", 10, pixel_values=images(10)[:, :, :5].numpy())
    few = write_images(folder / "few.npz", 3)
    table = json.loads(run("inspect", c, "--json").stdout)["manifest"]["calibration"]["table"]["budgets"]
    cases: tuple[tuple[tuple[object, ...], int, str], ...] = (
        ((c, "--budgets", "0.01"), 2, f"which goes from {table[0]:.4g} to {table[-1]:.4g}"),
        ((m, "--budgets", "0.5"), 2, "is not calibrated"),
        ((c, "--budgets", "0.5", "--threshold", 1), 2, "exclude each other"),
        ((folder / "b.onnx", "--threshold", 1), 2, "computes its thresholds from its input budget"),
        ((folder / "tensorrt.onnx",), 1, "is exported for the target tensorrt"),
        ((folder / "dense.onnx",), 1, "has no gated learners"),
        ((c, "--baseline", folder / "other.onnx"), 2, "; "),
        ((c, "--data", wrong), 2, "pixel_values is float32 [1, 5, 8]"),
        ((c, "--data", few, "--batch", 4), 2, "has 3 samples; --batch is 4"),
        ((c, "--batch", "0"), 2, "is not a list of batch sizes"),
        (
            (c, "--budgets", "0.5", "--assert-p99", "4ms@0.6"),
            2,
            "names the budget 0.6; --budgets has 0.5",
        ),
        ((c, "--assert-p99", "soon"), 2, "'soon' is not a valid duration"),
        ((c, "--compare", folder / "bad.json"), 2, "is not a result of acm-export latency"),
        ((c, "--max-regression", "5%"), 2, "has no effect without --compare"),
        ((c, "-o", folder / "none" / "r.json"), 1, "does not exist"),
        ((c, "-o", folder / "bad" / ".." / "c.onnx"), 2, "would be replaced"),
        ((c, "--plot", folder / "r.pdf"), 2, "must end in .png or .svg"),
        ((c, "--runtime", "onnxruntime-cuda"), 1, "CUDAExecutionProvider"),
    )
    for args, code, reason in cases:
        result = run("latency", *args)
        assert result.exit_code == code, (args, result.stderr)
        assert reason in result.stderr
        assert "Traceback" not in result.stderr
    baseline = run("latency", c, "--baseline", folder / "other.onnx").stderr
    assert "pixel_values float32 [batch, 1, 8, 8]" in baseline


def test_inputs_are_never_replaced(folder: Path, tmp_path: Path) -> None:
    data, before = folder / "d.npz", (folder / "d.npz").read_bytes()
    plan, passport, picture = tmp_path / "m.plan", tmp_path / "m.plan.json", tmp_path / "x.svg"
    passport.write_text("{}")
    for arguments in (
        (folder / "m.onnx", "--data", data, "-o", data),
        (folder / "m.onnx", "-o", picture, "--plot", picture),
        (plan, "-o", passport),
    ):
        refused = run("latency", *arguments, "--runs", "1")
        assert refused.exit_code == 2
        assert "would be replaced" in refused.stderr or "are the same file" in refused.stderr
    assert (data.read_bytes(), passport.read_text()) == (before, "{}")


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_a_duration_is_a_number_of_seconds(folder: Path, seconds: str) -> None:
    refused = run("latency", folder / "m.onnx", "--duration", seconds)
    assert refused.exit_code == 2
    assert "--duration" in refused.stderr


def test_streams_run_concurrently_and_identify_the_compared_runs(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    args = ("latency", folder / "m.onnx", "--batch", 2, "--runs", 6, "--streams", 3)
    result = run(*args, "--baseline", folder / "dense.onnx", "-o", output)
    assert result.exit_code == 0, result.stderr
    for r in json.loads(output.read_text())["runs"]:
        assert (r["streams"], r["host_ms"]["n"]) == (3, 18)
        assert r["throughput"] > 0
        assert r["enqueue_ms"] is r["transfer_ms"] is None
    other = run(*args[:-1], 2, "--compare", output)
    assert (other.exit_code, "none of these runs" in other.stderr) == (2, True)
    assert run(*args, "--compare", output, "--max-regression", "1e9").exit_code == 0


def test_cuda_graphs_are_refused_without_support(folder: Path) -> None:
    result = run("latency", folder / "m.onnx", "--cuda-graph")
    assert result.exit_code == 2
    assert "onnxruntime cannot launch CUDA graphs" in result.stderr


def test_data_with_nan_are_refused(folder: Path) -> None:
    np.savez(folder / "nan.npz", pixel_values=np.full((4, 1, 8, 8), np.nan, np.float32))
    result = run("latency", folder / "c.onnx", "--data", folder / "nan.npz")
    assert (result.exit_code, "contains NaN" in result.stderr) == (2, True)


def test_the_command_line_offers_every_runtime() -> None:
    assert tuple(BACKENDS) == _RUNTIMES == RUNTIMES


def test_timing_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnxscript', 'onnx_ir', 'safetensors'): sys.modules[name] = None\n"
        "from acm_export.cli import main\n"
        "main(sys.argv[1:])"
    )
    args = ["latency", folder / "c.onnx", "--budgets", "0.5", "--data", folder / "d.npz", "--runs", "1"]
    ran = subprocess.run([sys.executable, "-c", code, *map(str, args)], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_no_fallback_to_the_cpu_if_a_provider_does_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    result = run("latency", folder / "m.onnx", "--runtime", "onnxruntime-cuda", "--runs", 1)
    assert result.exit_code == 1
    assert "could not start its CUDAExecutionProvider" in result.stderr
