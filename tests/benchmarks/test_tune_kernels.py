"""Tuning tiles without a GPU: the new table, workloads, failures, and a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import tile_trials
import tune_kernels
from common import ResultFile
from device_timing import DeviceTiming
from kernel_cases import choose
from tile_candidates import UPS, candidates
from tile_trials import SIZES, Compilations, Trial, Tuner, Workload

from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import Entry, entries, parse

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def present(tokens: int) -> Entry:
    return choose(entries(), "sm_90", Problem(tokens, *SIZES, 0, 2))


def problem(tokens: int) -> Problem:
    return Problem(tokens, *SIZES, 0, 2)


def test_a_new_entry_changes_only_its_architecture() -> None:
    before = present(8)
    new = replace(before, down=replace(before.down, block_n=64), reason="Measured.")
    table = tuple(tune_kernels.merged(entries(), {before: new}, "sm_90"))
    assert choose(table, "sm_90", problem(8)) == replace(new, archs=("sm_90",))
    others = choose(table, "sm_80", problem(8))
    assert others == replace(before, archs=tuple(a for a in before.archs if a != "sm_90"))
    assert [e for e in table if e in entries()] == [e for e in entries() if e != before]
    for tokens in (48, 197, 25216):
        assert choose(table, "sm_90", problem(tokens)) == present(tokens)


def test_a_written_table_is_read_back() -> None:
    content = json.loads(resources.files("acm_export.plugins.kernels").joinpath("tiles.json").read_text())
    before = present(25216)
    table = tune_kernels.merged(entries(), {before: replace(before, split=0, reason="Measured.")}, "sm_90")
    text = tune_kernels.table_text(content | {"note": "kept"}, table)
    assert parse(json.loads(text)) == tuple(table)
    assert json.loads(text)["note"] == "kept"
    assert len(text.splitlines()) == len(table) + 2


def test_the_reason_of_an_entry_is_its_last_measurement() -> None:
    entry = present(197)
    facts = {"gpu": "H100", "triton": "3.6.0"}
    trials = [
        Trial(197, "present", entry, "measured", timing=DeviceTiming(20.0, 20.0, 1.0, 1.0, 1.0)),
        Trial(197, "up", replace(entry, split=0), "measured", timing=DeviceTiming(15.0, 20.0, 0.75, 0.7, 0.8)),
        Trial(197, "final", replace(entry, split=0), "measured", timing=DeviceTiming(16.0, 20.0, 0.8, 0.7, 0.9)),
    ]
    text = tune_kernels.reason(replace(entry, split=0), trials, facts)
    assert "H100, Triton 3.6.0, 20" in text
    assert "16.0 µs at 197 tokens" in text
    assert "0.80 of the time of the entry before" in text
    assert "does not run" in tune_kernels.reason(replace(entry, split=0), trials[1:], facts)


@pytest.mark.parametrize("tokens", [48, 1000])
def test_expected_values_are_those_of_the_layer(tokens: int) -> None:
    workload = Workload(tokens, "cpu")
    layer, x, logits = workload.calls[0]
    with torch.no_grad():
        y, counts = layer.run(x, logits)
        assert set(counts.tolist()) == {0, 1, 2, 3, 4}
        workload.check(y)
        with pytest.raises(ValueError, match="wrong values: error"):
            workload.check(y + 1)
        with pytest.raises(ValueError, match="wrong values: error nan"):
            workload.check(torch.full_like(y, torch.nan))


def test_few_tokens_rotate_layers_and_many_rotate_inputs() -> None:
    few, many = Workload(8, "cpu").calls, Workload(1000, "cpu").calls
    assert len({id(layer) for layer, _, _ in few}) == len(few) == 12
    assert len({id(layer) for layer, _, _ in many}) == 1
    assert len({x.data_ptr() for _, x, _ in many}) == len(many) == 4


class _Compiled:
    """Fake compilations, some of which failed."""

    def __init__(self, failed: dict[Entry, str]) -> None:
        self.failed = failed

    def reason(self, _tokens: int, _role: str, entry: Entry, _until: float) -> str:
        return self.failed.get(entry, "")

    def stop(self) -> None:
        pass


@pytest.fixture
def result(tmp_path: Path) -> ResultFile:
    return ResultFile("tune_kernels", Namespace(quick=True, output=tmp_path, device="none"))


def tuner(
    monkeypatch: pytest.MonkeyPatch, result: ResultFile, failed: dict[Entry, str], seconds: float = 1000
) -> Tuner:
    monkeypatch.setattr(tile_trials, "Workload", lambda _tokens: Workload(8, "cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return Tuner(result, [], 8, _Compiled(failed), time.monotonic() + seconds, 1)  # type: ignore[arg-type]


def test_each_failure_is_written_with_its_reason(monkeypatch: pytest.MonkeyPatch, result: ResultFile) -> None:
    before = present(8)
    bad, large = (replace(before, down=replace(before.down, stages=n)) for n in (7, 8))
    tuned = tuner(monkeypatch, result, {bad: "CompilationError: no"})

    def run(_self: Workload, entry: Entry, _call: int) -> torch.Tensor:
        if entry == large:
            raise torch.OutOfMemoryError("out of\nmemory")
        return torch.zeros(8, SIZES[0])

    monkeypatch.setattr(Workload, "run", run)
    with torch.no_grad():
        assert [tuned.measure("down", entry) for entry in (bad, large, before)] == [None, None, None]
    written = json.loads(result.path.read_text())["candidates"]
    assert [t["state"] for t in written] == ["failed"] * 3
    assert [t["reason"].split(":")[0] for t in written] == ["CompilationError", "OutOfMemoryError", "ValueError"]
    assert written[1]["reason"] == "OutOfMemoryError: out of memory"
    assert written[0]["down"]["stages"] == 7


def test_after_the_deadline_candidates_are_not_tried(monkeypatch: pytest.MonkeyPatch, result: ResultFile) -> None:
    assert tuner(monkeypatch, result, {}, seconds=-1).measure("up", present(8)) is None
    (written,) = json.loads(result.path.read_text())["candidates"]
    assert written["state"] == "not tried"
    assert "--seconds" in written["reason"]


def test_a_gpu_that_no_longer_works_ends_the_run(monkeypatch: pytest.MonkeyPatch, result: ResultFile) -> None:
    tuned = tuner(monkeypatch, result, {present(8): "wrong"})

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(tile_trials.DeviceLostError, match="illegal memory access"):
        tuned.measure("up", present(8))
    assert len(json.loads(result.path.read_text())["candidates"]) == 1


@pytest.mark.parametrize("lost", [False, True])
def test_a_whole_run_writes_every_time_and_the_table(
    monkeypatch: pytest.MonkeyPatch, result: ResultFile, lost: bool
) -> None:
    """PyTorch's op on the CPU replaces the kernels, and on the fake clock one candidate is faster."""
    fast = UPS[8][0].of(present(8).up)

    class Clock:
        def __init__(self, us: float) -> None:
            self.us = us

        def block_us(self, _runs: int) -> float:
            return self.us

    def capture(workload: Workload, entry: Entry) -> Clock:
        return Clock(len(workload.calls) * (5.0 if entry.up == fast else 10.0))

    def run(workload: Workload, _entry: Entry, call: int) -> torch.Tensor:
        layer, x, logits = workload.calls[call]
        return layer.run(x, logits)[0]

    monkeypatch.setattr(Workload, "capture", capture)
    monkeypatch.setattr(Workload, "run", run)
    monkeypatch.setattr(tile_trials, "Workload", lambda _tokens: Workload(8, "cpu"))
    monkeypatch.setattr(tune_kernels, "Compilations", lambda _presents: _Compiled({}))
    monkeypatch.setattr(tune_kernels, "device_facts", lambda: {"gpu": "H100", "triton": "3.6.0"})
    monkeypatch.setattr(tune_kernels.launch, "architecture", lambda _device: "sm_90")
    monkeypatch.setattr(torch.cuda, "synchronize", _lost if lost else lambda: None)
    monkeypatch.setattr(plan, "ROWS", plan.ROWS)
    trials: list[Trial] = []
    with torch.no_grad():
        chosen, stopped = tune_kernels.tune(Namespace(seconds=1000, quick=True, tokens=[8, 48]), result, trials)
    written = json.loads(result.path.read_text())
    assert len(written["candidates"]) == len(trials)
    if lost:
        assert (chosen, len(trials)) == ({}, 1)
        assert written["stopped"] == stopped == ["8 tokens: DeviceLostError: RuntimeError: illegal memory access"]
        return
    table = parse(json.loads(result.path.with_name("tiles-quick.json").read_text()))
    assert choose(table, "sm_90", problem(8)).up == fast
    assert "5.0 µs at 8 tokens and half the learners; 0.50 of" in choose(table, "sm_90", problem(8)).reason
    assert not stopped
    assert {trial.state for trial in trials} == {"measured"}


def _lost() -> None:
    raise RuntimeError("illegal memory access")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles everything where a GPU is")
def test_launches_compile_where_the_processes_do_not_work() -> None:
    compilations = Compilations({8: present(8)})
    try:
        until = time.monotonic() + 100
        assert compilations.reason(8, "present", present(8), until) == ""
        role, entry = candidates(present(8), 8)[1]
        assert compilations.reason(8, role, entry, until) == ""
    finally:
        compilations.stop()


COMPILE = """
import sys
sys.path.insert(0, sys.argv[1])
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Driver:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver.set_active(Driver())
from kernel_cases import choose
from tile_trials import SIZES, compile_entry
from acm_export.plugins.kernels import tiles
from acm_export.plugins.kernels.plan import Problem

entry = choose(tiles.entries(), "sm_90", Problem(8, *SIZES, 0, 2))
print("reason:", compile_entry(entry, 8, "cpu"))
"""


@pytest.mark.slow
def test_compiling_fills_the_cache_and_launches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(BENCHMARKS)], env=environment, check=True, text=True, capture_output=True
    )
    assert done.stdout.strip() == "reason:"
    assert {path.stem for path in tmp_path.rglob("*.cubin")} == {"route_one_block", "up", "down_split"}
