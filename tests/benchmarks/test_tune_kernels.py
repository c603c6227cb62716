"""The program that tunes tiles: its candidates, the search, the new table, what fails; without a GPU."""

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

from acm_export.plugins.kernels.plan import Problem

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import tile_trials
import tune_kernels
from common import ResultFile
from device_timing import DeviceTiming
from kernel_cases import choose
from tile_candidates import DOWNS, NOISE, TABLE_ROWS, TOKENS, UPS, Sizes, candidates, search
from tile_trials import SIZES, Compilations, Trial, Tuner, Workload

from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import Entry, Tile, entries, parse

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED_BYTES = 227 << 10
"""Most shared memory of a block on sm_90; a multiprocessor has 1 KiB more for each block."""

REGISTERS = 65536


def present(tokens: int) -> Entry:
    return choose(entries(), "sm_90", Problem(tokens, *SIZES, 0, 2))


def listed(tokens: int) -> list[Sizes]:
    return [*UPS[tokens], *(sizes for sizes, _ in DOWNS[tokens])]


@pytest.mark.parametrize("tokens", TOKENS)
def test_each_list_is_about_twenty_tiles_without_repetition(tokens: int) -> None:
    for candidate_list in (UPS[tokens], DOWNS[tokens]):
        assert 15 <= len(candidate_list) <= 24
        assert len(set(candidate_list)) == len(candidate_list)


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_tile_can_be_compiled_and_fits_an_h100(tokens: int) -> None:
    for sizes in listed(tokens):
        assert all(n >= 16 and n & (n - 1) == 0 for n in sizes[:3]), sizes
        assert sizes.shared_bytes <= SHARED_BYTES, sizes
        assert sizes.block_m * sizes.block_n <= 128 * 32 * sizes.warps, sizes


@pytest.mark.parametrize("tokens", TOKENS)
def test_registers_are_limited_only_where_two_blocks_fit(tokens: int) -> None:
    for sizes in listed(tokens):
        if sizes.registers:
            assert 2 * sizes.registers * 32 * sizes.warps <= REGISTERS, sizes
            assert 2 * (sizes.shared_bytes + 1024) <= SHARED_BYTES + 1024, sizes


@pytest.mark.parametrize("tokens", TOKENS)
def test_no_slices_are_more_than_a_plan_allows(tokens: int) -> None:
    assert all(split <= plan.MAX_SPLIT for _, split in DOWNS[tokens])


def test_many_tokens_try_256_rows_and_256_columns() -> None:
    assert {(128, 256), (256, 128)} <= {(s.block_m, s.block_n) for s in UPS[25216]}


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_candidate_is_compiled_beforehand(tokens: int) -> None:
    before = present(tokens)
    found = candidates(before, tokens)
    assert found[0] == ("present", before)
    ups = {entry.up for role, entry in found if role == "up"}
    downs = {(entry.down, entry.split) for role, entry in found if role == "down"}
    assert ups >= {sizes.of(before.up) for sizes in UPS[tokens]} - {before.up}
    assert downs >= {(s.of(before.down), split) for s, split in DOWNS[tokens]} - {(before.down, before.split)}


def test_a_tile_keeps_the_fields_that_a_candidate_does_not_name() -> None:
    tile = Sizes(64, 64, 32, 4, 3).of(Tile(128, 128, 64, 8, 3, registers=128))
    assert tile == Tile(64, 64, 32, 4, 3, registers=0)


UP, DOWN = Sizes(64, 128, 64, 4, 4), Sizes(128, 128, 64, 4, 3)


def cost(entry: Entry) -> float:
    """Of two kernels whose times add up; these two are the fastest."""
    base = present(25216)
    up = 0.6 if entry.up == UP.of(base.up) else 0.9 if entry.up == base.up else 1.2
    down = 0.7 if entry.down == DOWN.of(base.down) else 0.8 if entry.down.block_m == 64 else 1.1
    return (up + down) / 2


def test_the_search_finds_the_fastest_pair_that_fits() -> None:
    best = search(present(25216), 25216, lambda _, entry: cost(entry))
    assert best.up == UP.of(present(25216).up)  # 64 rows: the fastest GEMM 2 has 128 and does not fit
    assert best.down.block_m == 64
    assert best.up.block_m % best.down.block_m == 0


def test_candidates_that_fail_are_passed_over() -> None:
    best = search(present(25216), 25216, lambda _, e: None if e.up == UP.of(present(25216).up) else cost(e))
    assert best.up == present(25216).up
    assert best.down == DOWN.of(present(25216).down)


def test_a_gain_within_the_noise_changes_nothing() -> None:
    before = present(197)
    assert search(before, 197, lambda role, _: 1.0 if role == "present" else 1 - NOISE / 2) == before


def test_a_gain_that_does_not_repeat_changes_nothing() -> None:
    before = present(197)
    ratios = {"present": 1.0, "final": 1.01}
    assert search(before, 197, lambda role, _: ratios.get(role, 0.5)) == before


def test_where_the_present_entry_does_not_run_any_that_does_replaces_it() -> None:
    before = present(48)
    best = search(before, 48, lambda role, _: None if role == "present" else 1.0)
    assert best != before


def test_tiles_with_more_rows_than_the_workspace_are_timed_and_not_chosen() -> None:
    timed: list[Entry] = []

    def measure(_role: str, entry: Entry) -> float:
        timed.append(entry)
        return 0.5 if entry.up.block_m > TABLE_ROWS else 0.9 if entry != present(25216) else 1.0

    best = search(present(25216), 25216, measure)
    assert any(entry.up.block_m > TABLE_ROWS for entry in timed)
    assert best.up.block_m <= TABLE_ROWS


def problem(tokens: int) -> Problem:
    return Problem(tokens, *SIZES, 0, 2)


def test_a_new_entry_serves_its_architecture_and_leaves_all_else() -> None:
    before = present(8)
    new = replace(before, down=replace(before.down, block_n=64), reason="Measured.")
    table = tuple(tune_kernels.merged(entries(), {before: new}, "sm_90"))
    assert choose(table, "sm_90", problem(8)) == replace(new, archs=("sm_90",))
    others = choose(table, "sm_80", problem(8))
    assert others == replace(before, archs=tuple(a for a in before.archs if a != "sm_90"))
    assert [e for e in table if e in entries()] == [e for e in entries() if e != before]
    for tokens in (48, 197, 25216):
        assert choose(table, "sm_90", problem(tokens)) == present(tokens)


def test_the_written_table_reads_as_what_was_written() -> None:
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
def test_the_values_to_expect_are_those_of_the_layer(tokens: int) -> None:
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
    """Compilations of which some failed."""

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
    """With the op of PyTorch on the CPU in place of the kernels, and a clock by which one candidate is faster."""
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
def test_without_working_processes_launches_compile_for_themselves() -> None:
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
from acm_export.plugins.kernels import plan, tiles

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
