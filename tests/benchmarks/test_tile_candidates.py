"""Tuning tiles: the candidates, and the search through them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from kernel_cases import choose
from tile_candidates import DOWNS, NOISE, TABLE_ROWS, TOKENS, UPS, Sizes, candidates, search
from tile_trials import SIZES

from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.plan import Problem
from acm_export.plugins.kernels.tiles import Entry, Tile, entries

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
def test_candidates_have_at_most_the_slices_that_a_plan_allows(tokens: int) -> None:
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
    """Sum of the times of two kernels; UP and DOWN are the fastest."""
    base = present(25216)
    up = 0.6 if entry.up == UP.of(base.up) else 0.9 if entry.up == base.up else 1.2
    down = 0.7 if entry.down == DOWN.of(base.down) else 0.8 if entry.down.block_m == 64 else 1.1
    return (up + down) / 2


def test_the_search_finds_the_fastest_pair_that_fits() -> None:
    best = search(present(25216), 25216, lambda _, entry: cost(entry))
    assert best.up == UP.of(present(25216).up)  # 64 rows: the fastest GEMM 2 has 128 and does not fit
    assert best.down.block_m == 64
    assert best.up.block_m % best.down.block_m == 0


def test_candidates_that_fail_are_skipped() -> None:
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


def test_a_current_entry_that_does_not_run_is_replaced_by_one_that_does() -> None:
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
