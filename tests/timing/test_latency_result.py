"""The result file, warnings, assertions and comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acm_export.base.errors import UsageError
from acm_export.timing import checks
from acm_export.timing.environment import (
    CpuUse,
    Device,
    Environment,
    Process,
    busiest,
    governors,
    parse_gpu,
    parse_process,
    parse_stat,
    processes,
)
from acm_export.timing.reliability import Steadiness, environment_warnings, steadiness_warnings
from acm_export.timing.result import Baseline, BaselineRun, LatencyResult, ModelFile, RunResult, RuntimeInfo
from acm_export.timing.result_file import read_result, to_text
from acm_export.timing.statistics import LinearFit, Statistics, summarize

ONE = Statistics(2.0, None, 2.0, 2.0, 2.0, 2.0, 2.0, 1)


def timed(budget: float | None, p50: float, p99: float, routing: str = "data", batch: int = 1) -> RunResult:
    host = Statistics(p50, 0.1, p50, p99, p99, p99, p99, 200)
    return RunResult({"x": [batch, 4]}, routing, budget, budget, host, None)


def result(*runs: RunResult, **changes: Any) -> LatencyResult:
    return replace(
        LatencyResult(
            ModelFile("m.onnx", "a" * 64),
            RuntimeInfo("onnxruntime", "1.0", "CPUExecutionProvider"),
            Device("a CPU", "x86_64"),
            "acm-export latency m.onnx",
            "2026-01-01T00:00:00+00:00",
            runs,
            LinearFit(),
        ),
        **changes,
    )


def test_a_result_survives_a_round_trip(tmp_path: Path) -> None:
    baseline = Baseline(ModelFile("d.onnx", "b" * 64), (BaselineRun(summarize([1.0, 2.0]), None, 2.0),))
    written = result(
        replace(
            timed(0.5, 2.0, 3.0),
            device_ms=ONE,
            transfer_ms=ONE,
            streams=2,
            throughput=7.5,
            percentiles={"host_ms": {"p99.9": 3.5}},
        ),
        fit=LinearFit(1.0, 2.0, 0.5),
        baseline=baseline,
        warnings=("w",),
        partial=True,
        error="e",
        source=ModelFile("m.onnx", None),
        cuda_graph=True,
        failures=("f",),
        baseline_int8=replace(baseline, model=ModelFile("d.onnx, quantised to int8", "c" * 64)),
        precision="int8 static and fp32",
    )
    path = tmp_path / "r.json"
    path.write_text(to_text(written))
    assert read_result(path) == written
    assert json.loads(path.read_text())["baseline"]["runs"][0]["device_ms"] is None


def test_results_without_fields_that_were_added_later_are_read(tmp_path: Path) -> None:
    baseline = Baseline(ModelFile("d.onnx", "b" * 64), (BaselineRun(summarize([1.0, 2.0]), None, 2.0),))
    written = result(timed(0.5, 2.0, 3.0), baseline=baseline)
    content = json.loads(to_text(written))
    for later in ("error", "source", "cuda_graph", "failures", "baseline_int8", "precision"):
        del content[later]
    for run in (content["runs"][0], content["baseline"]["runs"][0]):
        for later in ("enqueue_ms", "transfer_ms", "throughput", "percentiles"):
            del run[later]
    del content["runs"][0]["streams"]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    assert read_result(path) == written


def test_engines_of_one_onnx_file_are_one_model() -> None:
    engine = result(source=ModelFile("m.onnx", "c" * 64))
    assert (result().identity, engine.identity) == ("a" * 64, "c" * 64)
    same_model = checks.Checks(old=engine, old_path=Path("old.json"))
    same_model.check_model(Path("m.plan"), "c" * 64)
    with pytest.raises(UsageError, match=f"sha256 is {'c' * 64}, that of m.plan is {'a' * 64}"):
        same_model.check_model(Path("m.plan"), "a" * 64)
    again = replace(engine, model=ModelFile("m.plan", "d" * 64), cuda_graph=True)
    found = list(checks.differences(engine, again))
    assert [text.split(":")[0].rpartition(" ")[2] for text in found] == ["runtime", "engine"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "has schema 2; this version reads schemas up to 1"),
        ({"runs": [{}]}, r"runs\[0\]\.\w+ is missing"),
        ({"runs": 1}, "runs is 1; it must be a list"),
        ({"partial": None}, "partial is null"),
        ({"more": 1}, "more is not a field"),
        ({"fit": {}}, r"fit\.\w+ is missing"),
        (
            {"runs": [result(replace(timed(0.5, 1, 1), percentiles={"host_ms": {"p75": "x"}})).to_json()["runs"][0]]},
            r"runs\[0\]\.percentiles\.host_ms\.p75 is",
        ),
    ],
)
def test_broken_results_are_refused_by_the_field(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(to_text(result())) | change))
    with pytest.raises(UsageError, match=reason):
        read_result(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match="not a result"):
        read_result(tmp_path / "r.json")
    with pytest.raises(UsageError, match="there is no file"):
        read_result(tmp_path / "none.json")


def test_assertions_name_a_time_and_a_budget() -> None:
    assert checks.parse_assertion("4ms@0.5") == checks.Assertion(4.0, 0.5)
    assert checks.parse_assertion("3.5") == checks.Assertion(3.5, None)
    for text in ("4ms@x", "x@0.5", "@0.5", "0ms"):
        with pytest.raises(UsageError):
            checks.parse_assertion(text)


def test_an_assertion_applies_to_data_runs_of_its_budget() -> None:
    runs = [timed(0.5, 1, 4), timed(0.5, 1, 5, batch=8), timed(1.0, 1, 9), timed(None, 1, 9, "most")]
    runs.append(timed(0.5, 1, 9, "skewed"))
    failed = list(checks.failed_assertions([checks.Assertion(4.0, 0.5)], runs))
    assert failed == ["p99 is 5 ms, asserted 4 ms: data at 0.5, batch 8"]
    assert len(list(checks.failed_assertions([checks.Assertion(4.0, None)], runs))) == 2


def test_a_regression_is_growth_of_the_median_beyond_the_allowed_share() -> None:
    old = result(timed(0.5, 100.0, 1.0), timed(1.0, 100.0, 1.0))
    new = result(timed(0.5, 105.0, 9.0), timed(1.0, 105.5, 1.0), timed(0.25, 999.0, 1.0))
    found = list(checks.regressions(old, new, 0.05))
    assert found == ["the median went from 100 to 105.5 ms (+5.5%, allowed +5.0%): data at 1, batch 1"]
    assert "lacks 1 of 3 runs; the first is data at 0.25, batch 1" in "".join(checks.differences(old, new))
    other = replace(old, device=Device("another", None), partial=True)
    assert [w.split(":")[0] for w in checks.differences(other, old)] == [
        "the earlier result has another device",
        "the earlier result is partial",
    ]


def with_baseline(old: LatencyResult, *ratios: float, sha256: str = "b" * 64) -> LatencyResult:
    beside = tuple(BaselineRun(r.host_ms, None, ratio) for r, ratio in zip(old.runs, ratios, strict=True))
    return replace(old, baseline=Baseline(ModelFile("dense.onnx", sha256), beside))


def test_ratios_to_the_baseline_are_compared_if_both_results_have_one() -> None:
    old = with_baseline(result(timed(0.5, 100.0, 1.0), timed(1.0, 100.0, 1.0)), 0.5, 0.8)
    new = with_baseline(result(timed(1.0, 300.0, 1.0), timed(0.5, 300.0, 1.0)), 0.8, 0.6)
    assert list(checks.regressions(old, new, 0.05)) == [
        "the ratio to the baseline went from 0.5 to 0.6 (+20.0%, allowed +5.0%): data at 0.5, batch 1"
    ]
    assert list(checks.differences(old, new)) == []


def test_times_are_compared_without_a_common_baseline() -> None:
    plain = result(timed(0.5, 100.0, 1.0))
    old, other = with_baseline(plain, 0.5), with_baseline(plain, 0.9, sha256="c" * 64)
    for before, now in ((old, plain), (plain, old), (old, other)):
        assert list(checks.regressions(before, now, 0.05)) == []
        assert "times are compared, not ratios to the baseline" in "".join(checks.differences(before, now))
    assert f"has another baseline: {'b' * 64}, now {'c' * 64}" in "".join(checks.differences(old, other))
    assert list(checks.differences(plain, plain)) == []


def test_rebuilt_engines_are_one_baseline() -> None:
    engine = result(timed(0.5, 100.0, 1.0), source=ModelFile("m.onnx", "d" * 64))
    old, new = with_baseline(engine, 0.5), with_baseline(engine, 0.9, sha256="c" * 64)
    (slower,) = checks.regressions(old, new, 0.05)
    assert "the ratio to the baseline went from 0.5 to 0.9" in slower
    (found,) = checks.differences(old, new)
    assert "has another baseline" in found


def test_a_run_at_another_measured_budget_is_warned_about() -> None:
    old = result(timed(0.5, 100.0, 1.0))
    new = replace(old, runs=(replace(old.runs[0], budget_measured=old.runs[0].budget_measured + 0.01),))
    assert "its inputs or thresholds differ" in "".join(checks.differences(old, new))
    assert list(checks.differences(old, old)) == []


def test_shares_may_be_percent_or_fractions() -> None:
    assert [checks.parse_percent(text) for text in ("5%", "0.05", " 10 % ", "0")] == [0.05, 0.05, 0.1, 0]
    for text in ("x", "5", "-1%", "nan", "inf", ""):
        with pytest.raises(UsageError):
            checks.parse_percent(text)


QUIET = Environment(2, 0.1, ["performance"], CpuUse(100, 0, 10), CpuUse(110, 0, 20), 10.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"load": 2.0}, "load 2.00 on 2 cores"),
        ({"governors": ["performance", "powersave"]}, "governor is powersave, not performance"),
        ({"after": CpuUse(125, 0, 20)}, "other processes used 1.5 of 2 cores"),
        ({"after": CpuUse(125, 0, 20), "busiest": ["a (process 7) 1.5"]}, "the measurement: a (process 7) 1.5"),
        ({"after": CpuUse(110, 5, 20)}, "the hypervisor took away 0.5 of 2 cores"),
        ({"load": None, "governors": [], "before": None, "after": None}, ""),
    ],
)
def test_the_environment_is_warned_about_only_if_it_was_observed(changes: dict[str, Any], expected: str) -> None:
    found = list(environment_warnings(replace(QUIET, **changes)))
    assert len(found) == bool(expected)
    assert expected in "".join(found)


STEADY = Steadiness("the model (a)", 0.02, 0.01, warmed_up=True, runs=100)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"variation": 0.03}, "exceeds 2.5% in 1 of 2, 3.0% for the model (b)"),
        ({"drift": -0.1}, "in 1 of 2, -10.0% for the model (b)"),
        ({"warmed_up": False}, "not stable after the warm-up in 1 of 2, first for the model (b)"),
        ({"runs": 99}, "in 1 of 2, 99 for the model (b)"),
    ],
)
def test_unsteady_times_are_warned_about_with_the_worst_case(changes: dict[str, Any], expected: str) -> None:
    found = list(steadiness_warnings([STEADY, replace(STEADY, name="the model (b)", **changes)], clocks_known=True))
    assert len(found) == bool(expected)
    assert expected in "".join(found)
    assert "does not show" not in "".join(found)


def test_additional_percentiles_need_more_runs() -> None:
    found = list(steadiness_warnings([STEADY], clocks_known=True, percentiles=(99.9, 75, 100, 99.99)))
    assert [text.split(":")[0] for text in found] == [
        "p99.9 is the maximum below 1000 timed runs",
        "p99.99 is the maximum below 10000 timed runs",
    ]


def test_the_machine_is_described_as_far_as_it_is_known(tmp_path: Path) -> None:
    text = "cpu  100 50 25 999 999 10 15 30 0 0\ncpu0 1 2 3"
    assert parse_stat(text, 100, 7.0) == CpuUse(2.0, 0.3, 7.0)
    for broken in ("", "cpu 1 2", "cpu  a b c d e f g h", "intr 1 2 3 4 5 6 7 8 9"):
        assert parse_stat(broken, 100, 7.0) is None
    assert parse_gpu(["A GPU", "9.0", "345", "1980", "P0", "570.1"]) == Device(
        "A GPU", "sm_90", "SM 345 MHz of 1980 MHz", "P0", "570.1"
    )
    unknown = "[N/A]"
    assert parse_gpu(["A GPU", "8.7", *[unknown] * 3, "540.4"]) == Device("A GPU", "sm_87", None, None, "540.4")
    assert governors(tmp_path) == []
    for cpu, governor in (("cpu0", "schedutil\n"), ("cpu1", "performance\n"), ("cpu2", "schedutil\n")):
        (tmp_path / cpu / "cpufreq").mkdir(parents=True)
        (tmp_path / cpu / "cpufreq" / "scaling_governor").write_text(governor)
    assert governors(tmp_path) == ["performance", "schedutil"]


def test_the_busiest_other_processes_are_named(tmp_path: Path) -> None:
    stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20"
    assert parse_process(stat, 100) == Process("a (b) c", 2.0)
    assert parse_process("", 100) is None
    assert parse_process("7 (a) S 1", 100) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(stat)
    (tmp_path / "8").mkdir()
    (tmp_path / "self").mkdir()
    assert list(processes(tmp_path)) == [7]
    before = {1: Process("me", 0), 2: Process("idle", 5), 3: Process("busy", 5)}
    after = {1: Process("me", 9), 2: Process("idle", 5.5), 3: Process("busy", 10), 4: Process("new", 2)}
    assert busiest(before, after, 10.0, 1) == ("busy (process 3) 0.5", "new (process 4) 0.2")


def test_the_json_of_a_failed_run_can_be_read(tmp_path: Path) -> None:
    failed = {"error": {"kind": "latency", "message": "p99 is 5 ms, asserted 4 ms", "hint": None}}
    (tmp_path / "r.json").write_text(json.dumps(json.loads(to_text(result())) | failed))
    assert read_result(tmp_path / "r.json").error == "p99 is 5 ms, asserted 4 ms"
