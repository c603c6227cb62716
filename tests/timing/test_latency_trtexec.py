"""Results made from the times that trtexec exported, with exact numbers; and files that are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from acm_export.base.errors import UsageError
from acm_export.base.files import sha256_of
from acm_export.cli import main
from acm_export.timing.trtexec import read_times, resolution

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["latency", *map(str, args)])


def query(start: float, enqueue: float = 0.25, h2d: float = 0.5, compute: float = 2.0, d2h: float = 0.25) -> Any:
    """An entry as exportJSONTrace writes it: timestamps, then durations."""
    moments = [start, start + enqueue, start, start + h2d, start + h2d, start + h2d + compute]
    moments += [moments[-1], moments[-1] + d2h]
    names = (
        "startEnqMs",
        "endEnqMs",
        "startH2dMs",
        "endH2dMs",
        "startComputeMs",
        "endComputeMs",
        "startD2hMs",
        "endD2hMs",
    )
    durations = {"h2dMs": h2d, "computeMs": compute, "d2hMs": d2h, "latencyMs": h2d + compute + d2h}
    return dict(zip(names, moments, strict=True)) | durations


def write(path: Path, *queries: Any) -> Path:
    """In trtexec's layout: one query on each line, the comma before it."""
    lines = "\n, ".join(json.dumps(entry) for entry in queries)
    path.write_text(f"[\n  {lines}\n]\n")
    return path


@pytest.fixture
def times(tmp_path: Path) -> Path:
    computes = [2.0] * 98 + [4.0, 8.0]
    return write(tmp_path / "t.json", *(query(10.0 * i, compute=c) for i, c in enumerate(computes)))


def test_statistics_are_those_of_the_queries(times: Path, tmp_path: Path) -> None:
    plan, output = tmp_path / "m.plan", tmp_path / "r.json"
    plan.write_bytes(b"engine")
    result = run(plan, "--trtexec-times", times, "--batch", 8, "-o", output, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content == json.loads(output.read_text())
    assert content["model"] == {"file": str(plan), "sha256": sha256_of(plan)}
    assert content["runtime"] == {"name": "trtexec", "version": None, "provider": "TensorRT"}
    (measured,) = content["runs"]
    assert (measured["inputs"], measured["routing"], measured["budget_measured"]) == ({}, "data", None)
    for name, p50, p99, largest in (
        ("host_ms", 2.75, 4.75, 8.75),
        ("device_ms", 2.0, 4.0, 8.0),
        ("enqueue_ms", 0.25, 0.25, 0.25),
        ("transfer_ms", 0.75, 0.75, 0.75),
    ):
        assert (measured[name]["p50"], measured[name]["p99"], measured[name]["max"]) == (p50, p99, largest), name
        assert measured[name]["n"] == 100
    assert measured["throughput"] == pytest.approx(8 * 100 / 0.99875)  # to the end of the last query, 998.75 ms
    assert content["fit"] == {"fixed_ms": None, "ms_per_budget": None, "r2": None}


def test_failed_assertions_and_comparisons_exit_with_1(times: Path, tmp_path: Path) -> None:
    assert run("--trtexec-times", times, "--assert-p99", "4.75ms").exit_code == 0
    failed = run("--trtexec-times", times, "--assert-p99", "4.7ms", "-o", tmp_path / "old.json")
    assert failed.exit_code == 1
    assert "p99 is 4.75 ms, asserted 4.7 ms" in failed.stderr
    slower = write(tmp_path / "s.json", *(query(10.0 * i, compute=3.0) for i in range(100)))
    compared = run("--trtexec-times", slower, "--compare", tmp_path / "old.json", "--max-regression", "30%")
    assert compared.exit_code == 1
    assert "the median went from 2.75 to 3.75 ms (+36.4%, allowed +30.0%)" in compared.stderr
    assert "it is not known whether the earlier result is of the same model" in compared.stderr
    assert run("--trtexec-times", slower, "--compare", tmp_path / "old.json", "--max-regression", "40%").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"enqueue": 1.75}, "host-bound: in 1 of 1 the host takes about as long to enqueue the work as the device"),
        ({"h2d": 0.0, "d2h": 0.0}, "trtexec left transfers out"),
        ({"spacing": 2.0}, "enqueue ahead: 99 of 100 queries"),
        (
            {"spacing": 2000.0},
            "enqueue times are left out: trtexec writes timestamps with 6 digits, here a",
        ),
    ],
)
def test_what_the_times_leave_out_is_warned_about(
    changes: dict[str, float], expected: str | None, tmp_path: Path
) -> None:
    spacing = changes.pop("spacing", 10.0)
    result = run("--trtexec-times", write(tmp_path / "t.json", *(query(spacing * i, **changes) for i in range(100))))
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert "random numbers" in warnings[0]
    assert len(warnings) == 1 + (expected is not None)
    assert expected is None or expected in warnings[1]


def test_durations_below_the_resolution_of_timestamps_are_null(tmp_path: Path) -> None:
    late = read_times(write(tmp_path / "t.json", query(20000.0)))
    assert resolution(late) == pytest.approx(0.1)
    content = json.loads(run("--trtexec-times", tmp_path / "t.json", "--json").stdout)
    assert content["runs"][0]["enqueue_ms"] is None
    assert content["runs"][0]["device_ms"]["p50"] == 2.0


def test_transfers_that_were_left_out_are_null(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", query(1.0, h2d=0.0, d2h=0.0))
    assert json.loads(run("--trtexec-times", path, "--json").stdout)["runs"][0]["transfer_ms"] is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "was not written by trtexec"),
        ("{}", "holds a dict, not a list"),
        ("[]", "holds no queries"),
        ("[1]", r"\[0\] is 1; it must be an object"),
        ('[{"layer": 1}]', r"\[0\]\.\w+ is missing"),  # as --exportProfile writes
        (json.dumps([query(1.0), query(1.0) | {"computeMs": float("nan")}]), r"\[1\]\.computeMs is NaN"),
        (json.dumps([query(1.0) | {"latencyMs": "2"}]), r'latencyMs is "2"; it must be a number from 0'),
        (json.dumps([query(1.0, enqueue=-0.5)]), r"endEnqMs is 0\.5, before startEnqMs, 1\.0"),
        ("[" * 100_000, "was not written by trtexec"),
    ],
)
def test_other_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match=reason) as error:
        read_times(tmp_path / "t.json")
    assert "--exportTimes" in str(error.value.hint) or "--duration" in str(error.value.hint)


def test_options_that_need_a_run_are_refused(times: Path, tmp_path: Path) -> None:
    for args, reason in (
        (("--trtexec-times", tmp_path / "none.json"), "there is no file"),
        (("--trtexec-times", times, "--budgets", "0.5"), "--budgets does not apply with --trtexec-times"),
        (("--trtexec-times", times, "--plot", "x.png"), "--plot does not apply with --trtexec-times"),
        (("--trtexec-times", times, "--batch", "1,8"), "--batch names 2 sizes"),
        (
            ("--trtexec-times", times, "--assert-p99", "4ms@0.5"),
            "names the budget 0.5, --budgets has none",
        ),
        (("--trtexec-times", times, "-o", times), "would be replaced"),
        ((tmp_path / "none.plan", "--trtexec-times", times), "there is no file"),
        ((), "missing argument MODEL"),
    ):
        result = run(*args)
        assert result.exit_code == 2, args
        assert reason in result.stderr
