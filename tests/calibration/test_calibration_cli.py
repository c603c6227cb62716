"""The verb ``calibrate`` as a user calls it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from calibration_files import write_images
from click.testing import CliRunner, Result
from exported_files import images, names

from acm_export.cli import main
from acm_export.onnx_file.set_budget import set_budget

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    shutil.copy(vit_files / "m.onnx", folder)
    write_images(folder / "d.npz", 60)
    return folder


def test_a_calibration_with_a_report(folder: Path) -> None:
    data, output, report = folder / "d.npz", folder / "c.onnx", folder / "r.html"
    args = ("calibrate", folder / "m.onnx", "--data", data, "--budgets", "0.5,0.7", "--probe-samples", 8)
    result = run(*args, "-o", output, "--report", report, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [r["requested"] for r in content["calibration"]["requests"]] == [0.5, 0.7]
    page = report.read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") > 6
    assert "The cheapest" in page
    inspected = run("inspect", output)
    assert "knots (sensitivity), from 48 samples" in inspected.stdout
    result = run("set-budget", output, "0.6", "--json")
    assert json.loads(result.stdout)["setting"]["budget"] == 0.6


def test_a_budget_in_flops_and_the_table_for_people(folder: Path) -> None:
    manifest = json.loads(run("inspect", folder / "m.onnx", "--json").stdout)["manifest"]
    layers = sum(e["tokens"] * e["num_learners"] * e["learner_flops"] for e in manifest["layers"])
    fixed = manifest["rest_flops"] + sum(e["tokens"] * e["gate_flops"] for e in manifest["layers"])
    args = ("calibrate", folder / "m.onnx", "--data", folder / "d.npz", "--solver", "uniform")
    result = run(*args, "--flops", fixed + 0.5 * layers, "-o", folder / "f.onnx")
    assert result.exit_code == 0, result.stderr
    assert "0.500" in result.stdout
    assert "set-budget" in result.stdout


def test_invalid_calls_are_reported_and_write_nothing(folder: Path) -> None:
    (folder / "bad").mkdir()
    wrong = write_images(folder / "wrong.npz", 10, pixel_values=images(10)[:, :, :5].numpy())
    model, data, output = folder / "m.onnx", folder / "d.npz", folder / "bad" / "x.onnx"
    uncalibrated = run("set-budget", model, "0.6")
    assert (uncalibrated.exit_code, "is not calibrated" in uncalibrated.stderr) == (1, True)
    cases = (
        (
            ("--data", wrong),
            2,
            f"sample 0 of {wrong}: pixel_values is float32 [1, 5, 8]; the model takes float32 [1, 8, 8]",
        ),
        (("--data", folder / "none.npz"), 2, "there is no file or folder"),
        (("--data", data, "--budgets", "0.5,x"), 2, "'x' is not a number"),
        (("--data", data, "--budgets", "0.01"), 1, "the smallest is"),
        (("--data", data, "--flops", "1"), 2, "out of reach"),
        (("--data", data, "--latency-target", "4ms"), 2, "--latency-target needs --latency-file"),
        (("--data", data, "--device", "cuda"), 1, "CUDAExecutionProvider"),
        (("--data", data, "--budgets", "1.5"), 2, "the budget 1.5 is out of range"),
        (("--data", data, "--precision", "0.1"), 2, "a precision is given, but no budget"),
        (("--data", data, "--report", folder / "r.pdf"), 2, "--report is r.pdf; it must end in .html"),
    )
    for args, code, reason in cases:
        result = run("calibrate", model, *args, "-o", output)
        assert result.exit_code == code, (args, result.stderr)
        assert reason in result.stderr
        assert "Traceback" not in result.stderr
    assert names(folder / "bad") == []


def test_budgets_that_exclude_each_other_are_refused(folder: Path) -> None:
    result = run("set-budget", folder / "m.onnx", "0.5", "--threshold", "1")
    assert result.exit_code == 2
    assert "are mutually exclusive" in result.stderr
    assert set_budget(folder / "m.onnx", trained=True).setting.threshold == 0
