"""``latency`` as a Python function: paths, results and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from exported_files import images
from tiny_models import tiny_vit

from acm_export.base.errors import OutputError, UsageError
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.timing import latency as module
from acm_export.timing import warm_up
from acm_export.timing.latency import latency
from acm_export.timing.result import LatencyResult, ResultNotWrittenError
from acm_export.timing.result_file import read_result

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    torch.manual_seed(0)
    export(tiny_vit(), images(2), folder / "m.onnx", verify=False, output_fields=("logits",))
    export(tiny_vit({}), images(2), folder / "dense.onnx", verify=False, output_fields=("logits",))
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


class Steps:
    def __init__(self) -> None:
        self.titles: list[str] = []

    def stage(self, title: str, batches: int | None) -> None:
        assert batches is None
        self.titles.append(title)

    def batch(self) -> None:
        raise AssertionError("no step has batches")


def test_it_returns_the_result_that_it_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/me/service.py", "--port", "8 0"])
    steps, output = Steps(), tmp_path / "r.json"
    result = latency(
        str(folder / "m.onnx"), baseline=folder / "dense.onnx", batch=2, runs=3, output=str(output), progress=steps
    )
    assert isinstance(result, LatencyResult)
    assert read_result(output) == result
    assert result.baseline is not None
    assert {run.batch for run in result.runs} == {2}
    assert result.failures == ()
    assert result.command == "service.py --port '8 0'"
    assert steps.titles[:2] == ["loading the model", "measuring budgets, batch 2"]
    assert steps.titles[2] == "run 1 of 4: data, pixel_values [2, 1, 8, 8]"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_failed_checks_are_in_the_result(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    latency(folder / "m.onnx", runs=3, output=old)
    content = json.loads(old.read_text())
    for run in content["runs"]:
        run["host_ms"]["p50"] *= 1e-6
    old.write_text(json.dumps(content))
    result = latency(folder / "m.onnx", runs=3, assert_p99=["0.000001ms"], compare=old, max_regression=0.1)
    asserted, *slower = result.failures
    assert asserted.startswith("p99 is ")
    assert len(slower) == len(result.runs)
    assert all("allowed +10.0%" in text for text in slower)
    assert result.to_json()["failures"] == result.failures


def test_additional_percentiles_are_a_field_and_a_table(folder: Path, tmp_path: Path) -> None:
    args = ["latency", "m.onnx", "--runs", "5", "--baseline", "dense.onnx", "--warm-up", "0", "-o", "r.json"]
    args = [str(folder / arg) if arg.endswith(".onnx") else arg for arg in args[:-1]] + [str(tmp_path / "r.json")]
    shown = CliRunner().invoke(main, [*args, "--percentile", "75,99.9", "--percentile", "10"])
    assert shown.exit_code == 0, shown.stderr
    assert "additional percentiles (ms)" in shown.stdout
    assert "host p99.9" in shown.stdout
    assert "not stable after the warm-up" in shown.stderr
    result = read_result(tmp_path / "r.json")
    assert result.baseline is not None
    for run in (*result.runs, *result.baseline.runs):
        assert run.percentiles is not None
        assert list(run.percentiles) == ["host_ms"]
        assert list(run.percentiles["host_ms"]) == ["p75", "p99.9", "p10"]
        assert run.percentiles["host_ms"]["p99.9"] == run.host_ms.max


@pytest.mark.parametrize("option", ["output", "plot"])
def test_a_result_that_cannot_be_written_is_not_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space left", "free some")

    monkeypatch.setattr(module, "write_text" if option == "output" else "write_plot", full)
    path = tmp_path / ("r.json" if option == "output" else "r.svg")
    with pytest.raises(ResultNotWrittenError, match="no space left") as caught:
        latency(folder / "m.onnx", runs=1, **{option: path})  # type: ignore[arg-type]
    assert caught.value.hint == "free some"
    assert [run.routing for run in caught.value.result.runs] == ["data", "skewed", "least", "most"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"duration": float("nan")}, "--duration is nan"),
        ({"runs": 0}, "--runs is 0"),
        ({"batch": ()}, "--batch is "),
        ({"batch": 0}, "--batch is 0"),
        ({"streams": 65}, "--streams is 65; expected 1 to 64"),
        ({"percentiles": [100.5]}, "--percentile is 100.5"),
        ({"percentiles": [0]}, "--percentile is 0"),
        ({"warm_up": float("inf")}, "--warm-up is inf"),
        ({"warm_up": -1.0}, "--warm-up is -1"),
        ({"runtime": "tvm"}, "unknown runtime 'tvm'"),
        ({"budgets": [0.5], "threshold": 0.0}, "exclude each other"),
        ({"max_regression": -0.1}, "'-0.1' is not a valid share"),
        ({"trtexec_times": "t.json", "runs": 3}, "--runs does not apply with --trtexec-times"),
        ({"trtexec_times": "t.json", "warm_up": 0.0}, "--warm-up does not apply with --trtexec-times"),
    ],
)
def test_wrong_values_are_refused(folder: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        latency(folder / "m.onnx", **options)
    with pytest.raises(UsageError, match="there is no model to time"):
        latency()
