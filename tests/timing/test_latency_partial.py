"""``latency`` that ends early: a signal, an error of the runtime, a full disk."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from calibration_files import calibrated, write_images
from click.testing import CliRunner, Result
from exported_files import names

from acm_export.base import interrupts
from acm_export.base.errors import LatencyError
from acm_export.cli import main
from acm_export.timing import timed_runs, warm_up


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    shutil.copy(vit_files / "m.onnx", folder)
    write_images(folder / "d.npz", 40)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "c.onnx", (0.5,), solver="uniform")
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


@pytest.mark.parametrize("lost", [False, True])
def test_an_interrupt_keeps_what_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: bool
) -> None:
    real, calls = timed_runs.measure, []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            monkeypatch.setattr(interrupts._Memory, "received", True)
            raise ImportError("lost") if lost else interrupts.Interrupted
        return real(*args, **options)

    monkeypatch.setattr(timed_runs, "measure", interrupted)
    output = tmp_path / "r.json"
    result = run("latency", folder / "c.onnx", "--budgets", "0.5", "--runs", 2, "-o", output)
    assert result.exit_code == 1
    assert "interrupted after 2 of 4 runs" in result.stderr
    content = json.loads(output.read_text())
    assert content["partial"] is True
    assert [r["routing"] for r in content["runs"]] == ["data", "skewed"]
    assert content["fit"] == {"fixed_ms": None, "ms_per_budget": None, "r2": None}
    assert names(tmp_path) == ["r.json"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nmore"), LatencyError("the GPU is gone")])
def test_an_error_of_the_runtime_keeps_what_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    real, calls = timed_runs.measure, []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(timed_runs, "measure", failing)
    output = tmp_path / "r.json"
    result = run("latency", folder / "c.onnx", "--budgets", "0.5", "--runs", 2, "-o", output, "--assert-p99", "1e9")
    assert result.exit_code == 1
    content = json.loads(output.read_text())
    assert content["partial"] is True
    assert [r["routing"] for r in content["runs"]] == ["data", "skewed", "least"]
    named = "run 4 of 4: most, pixel_values [1, 1, 8, 8] failed: RuntimeError: out of memory"
    assert content["error"] == (named if isinstance(error, RuntimeError) else "the GPU is gone")
    assert f"error: {content['error']}; stopped after 3 of 4 runs; they are in {output}" in result.stderr
    calls[:] = [()] * 3
    output.write_text("old")
    first = run("latency", folder / "c.onnx", "--budgets", "0.5", "--runs", 2, "-o", output)
    assert (first.exit_code, output.read_text()) == (1, "old")
    assert str(error).splitlines()[0] in first.stderr


def test_a_full_disk_still_shows_the_result(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(path: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    (tmp_path / "r.json").write_text("old")
    monkeypatch.setattr(Path, "write_text", full)
    result = run("latency", folder / "m.onnx", "--runs", 2, "-o", tmp_path / "r.json", "--json")
    assert result.exit_code == 1
    assert "no space left while writing" in result.stderr
    assert json.loads(result.stdout)["partial"] is False
    assert names(tmp_path) == ["r.json"]
    assert (tmp_path / "r.json").read_text() == "old"


def test_an_interrupt_before_the_first_run_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise interrupts.Interrupted

    monkeypatch.setattr(timed_runs, "measure", interrupted)
    (tmp_path / "r.json").write_text("old")
    assert run("latency", folder / "m.onnx", "--runs", 2, "-o", tmp_path / "r.json").exit_code == 1
    assert (tmp_path / "r.json").read_text() == "old"
