"""The arithmetic of launches: workspace, chunks, grids, and which table entry runs a problem."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.base.errors import KernelError
from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.grids import down_grid, even, quantize_grid, up_grid
from acm_export.plugins.kernels.plan import Problem, aligned, routing, workspace
from acm_export.plugins.kernels.tiles import ARCHITECTURES, CUDA_VALUES, PRECISIONS, SCHEMA, entries, parse, select

TOKENS = st.one_of(st.integers(1, 3000), st.integers(1, 1 << 20))
WIDTHS = st.one_of(st.integers(1, 300), st.sampled_from([768, 1280, 5120]))
ENTRIES = st.sampled_from(entries())
MIB = 1 << 20


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Shapes that the kernels must run."""
    n = draw(st.sampled_from([1, 2, 4, 8, 31, 64]))
    sizes = (draw(TOKENS), draw(WIDTHS), draw(WIDTHS), n, draw(st.integers(0, n)), draw(st.sampled_from([1, 2, 4])))
    return Problem(*sizes, draw(st.booleans()))


@given(problems())
def test_sections_of_the_workspace_are_aligned_and_large_enough(problem: Problem) -> None:
    layout = workspace(problem)
    offsets = [getattr(layout, field.name) for field in fields(layout)]
    sizes = {
        "reach": 4 * (problem.num_learners + 1),
        "order": 4 * problem.tokens,
        "histograms": 4 * problem.num_choices * routing(problem).num_blocks,
        "arrivals": 4 * problem.arrivals,
        "q": min(problem.tokens, problem.chunk_rows) * problem.model_dim if problem.element_size == 1 else 0,
        "hidden": problem.chunk_rows * problem.num_learners * problem.hidden_dim * problem.element_size,
        "partial": 0,
    }
    assert all(offset % 256 == 0 for offset in offsets)
    for (name, needed), start, end in zip(sizes.items(), offsets, offsets[1:], strict=False):
        assert end - start >= needed, name


@given(problems(), st.integers(1, 4))
def test_split_sums_fit_where_k_is_split(problem: Problem, split: int) -> None:
    needed = 4 * problem.num_learners * split * problem.tokens * problem.model_dim
    layout = workspace(problem)
    assert problem.splits(split) == (needed <= 32 * MIB and problem.tokens <= problem.chunk_rows)
    if problem.splits(split):
        assert layout.size - layout.partial >= needed
        tiles = max(down_grid(problem, entry, problem.tokens) for entry in entries() if entry.split)
        assert layout.hidden - layout.arrivals >= 4 * tiles
    assert not problem.splits(0)


@given(problems(), TOKENS)
def test_the_workspace_for_more_tokens_serves_fewer(problem: Problem, tokens: int) -> None:
    fewer, more = sorted((problem.tokens, tokens))
    small, large = (workspace(replace(problem, tokens=count)) for count in (fewer, more))
    assert small.size <= large.size


@given(problems())
def test_the_workspace_stays_below_256_mib_where_one_tile_of_rows_does(problem: Problem) -> None:
    if (problem.hidden_row_bytes + problem.quantized_row_bytes) * plan.ROWS <= plan.HIDDEN_LIMIT:
        assert workspace(problem).size <= 256 * MIB


@given(problems())
def test_chunks_cover_every_row_once_in_whole_tiles(problem: Problem) -> None:
    chunks = list(problem.chunks())
    assert [first for first, _ in chunks] == [sum(rows for _, rows in chunks[:i]) for i in range(len(chunks))]
    assert sum(rows for _, rows in chunks) == problem.tokens
    assert all(rows == problem.chunk_rows for _, rows in chunks[:-1])
    assert problem.chunk_rows % plan.ROWS == 0
    assert 0 < chunks[-1][1] <= problem.chunk_rows


@given(problems())
def test_rows_of_int8_values_start_at_multiples_of_sixteen_bytes(problem: Problem) -> None:
    int8, half = (replace(problem, element_size=size) for size in (1, 2))
    assert int8.quantized_row_bytes % 16 == 0 == int8.hidden_row_bytes % 16
    assert problem.model_dim <= int8.quantized_row_bytes < problem.model_dim + 16
    assert 2 * int8.hidden_row_bytes == half.hidden_row_bytes
    assert half.quantized_row_bytes == 0
    assert workspace(half).q == workspace(half).hidden


@given(problems())
def test_blocks_that_quantise_cover_every_row_and_padded_column(problem: Problem) -> None:
    rows = problem.chunk_rows - 1
    (height, width), (down, across) = plan.QUANTIZE_BLOCK, quantize_grid(problem, rows)
    assert (down - 1) * height < rows <= down * height
    assert (across - 1) * width < problem.model_dim
    assert replace(problem, element_size=1).quantized_row_bytes <= across * width


@given(problems(), ENTRIES)
def test_grids_cover_every_row_column_and_learner(problem: Problem, entry: Any) -> None:
    problem = replace(problem, glu=problem.glu and entry.glu is not None)
    rows = problem.chunk_rows - 1
    up_tiles = up_grid(problem, entry, rows) / problem.num_learners
    down_tiles = down_grid(problem, entry, rows)
    for tiles, tile, width in (
        (up_tiles, entry.glu if problem.glu else entry.up, problem.hidden_dim),
        (down_tiles, entry.down, problem.model_dim),
    ):
        across = next(n for n in range(1, width + 1) if n * tile.block_n >= width)
        assert tiles % across == 0
        assert (tiles / across - 1) * tile.block_m < rows <= tiles / across * tile.block_m


@given(problems(), ENTRIES)
def test_tiles_without_masks_end_where_the_matrices_end(problem: Problem, entry: Any) -> None:
    problem = replace(problem, glu=problem.glu and entry.glu is not None)
    up, down = even(problem, entry)
    d, h, tile = problem.model_dim, problem.hidden_dim, entry.glu if problem.glu else entry.up
    assert up == (d % tile.block_k == h % tile.block_n == 0)
    assert down == (h % entry.down.block_k == d % entry.down.block_n == 0)
    if down:
        assert h % 16 == 0  # else the learners do not lie side by side in the workspace


@given(problems())
def test_routing_blocks_cover_every_token_and_choice(problem: Problem) -> None:
    blocks = routing(problem)
    assert blocks.choices >= problem.num_choices
    tokens = blocks.block * blocks.num_pieces
    assert (blocks.num_blocks - 1) * tokens < problem.tokens <= blocks.num_blocks * tokens
    assert (blocks.num_blocks == 1) == (problem.tokens <= blocks.block)


@pytest.mark.parametrize(
    ("tokens", "learners", "pieces", "blocks"),
    [
        (256, 4, 1, 1),
        (257, 4, 1, 2),
        (25_216, 4, 1, 99),
        (131_072, 4, 1, 512),
        (131_073, 4, 2, 257),
        (262_144, 4, 2, 512),
        (262_145, 4, 3, 342),
        (16_384, 64, 1, 512),
        (16_385, 64, 2, 257),
        (plan.MAX_TOKENS, 64, 1 << 15, 512),
        (plan.MAX_TOKENS - 1, 7, 1 << 12, 512),
    ],
)
def test_more_tokens_than_the_most_routing_blocks_handle_at_a_time_take_several_pieces(
    tokens: int, learners: int, pieces: int, blocks: int
) -> None:
    problem = Problem(tokens, 16, 16, learners, 0, 2)
    found = routing(problem)
    assert (found.num_pieces, found.num_blocks) == (pieces, blocks)
    layout = workspace(problem)
    assert layout.arrivals - layout.histograms >= 4 * problem.num_choices * blocks


@pytest.mark.parametrize("learners", [4, 31, 64])
def test_a_call_with_fewer_blocks_of_more_tokens_needs_no_smaller_workspace(learners: int) -> None:
    problem = Problem(1, 768, 1024, learners, 0, 2)  # wide, so that the hidden values and sums are at their limits
    tokens = routing(problem).block * plan.MAX_ROUTING_BLOCKS
    most, more = (replace(problem, tokens=count) for count in (tokens, tokens + 1))
    assert routing(more).num_blocks < routing(most).num_blocks
    assert workspace(more).size >= workspace(most).size


@pytest.mark.parametrize("tokens", [0, -1, plan.MAX_TOKENS + 1])
def test_a_number_of_tokens_out_of_range_is_rejected_with_both_values(tokens: int) -> None:
    with pytest.raises(KernelError, match=rf"{tokens} tokens.* 1 to {plan.MAX_TOKENS}"):
        Problem(tokens, 8, 8, 2, 0, 2)


@pytest.mark.parametrize("wrong", ["model_dim", "hidden_dim", "pointer"])
def test_loads_of_sixteen_bytes_need_widths_and_pointers_that_allow_them(wrong: str) -> None:
    problem, pointer = Problem(5, 48, 64, 2, 0, 2), 4096
    assert aligned(problem, pointer, 2 * pointer)
    if wrong == "pointer":
        pointer += 8
    else:
        problem = replace(problem, **{wrong: 40})
    assert not aligned(problem, 4096, pointer)


@given(problems(), st.sampled_from(ARCHITECTURES), st.sampled_from(PRECISIONS), st.booleans(), st.booleans())
def test_the_first_entry_that_fits_is_selected(
    problem: Problem, arch: str, precision: str, is_aligned: bool, packed: bool
) -> None:
    chosen = select(arch, precision, problem, aligned=is_aligned, packed=packed)
    fitting = [
        entry
        for entry in entries()
        if arch in entry.archs
        and entry.precision == precision
        and (is_aligned or entry.alignment == 1)
        and problem.model_dim % entry.alignment == 0
        and problem.hidden_dim % entry.alignment == 0
        and (packed or entry.language == "triton")
        and (entry.glu is not None or not problem.glu)
        and (entry.language == "triton" or problem.tokens * problem.model_dim < CUDA_VALUES)
        and (entry.max_tokens is None or problem.tokens <= entry.max_tokens)
        and (entry.split == 0 or problem.splits(entry.split))
    ]
    assert chosen is fitting[0]


@pytest.mark.parametrize(
    ("tokens", "width", "packed", "index"),
    [
        (1, 768, True, 0),
        (16, 768, True, 0),
        (17, 768, True, 1),
        (64, 768, True, 1),
        (65, 768, True, 2),
        (512, 768, True, 2),
        (513, 768, True, 4),
        (25216, 768, True, 4),
        (25216, 1280, True, 5),
        (513, 768, False, 6),
    ],
)
def test_token_counts_choose_among_the_half_precision_tiles_of_sm_90(
    tokens: int, width: int, packed: bool, index: int
) -> None:
    problem = Problem(tokens, width, width, 4, 0, 2)
    limits = [entry.max_tokens for entry in entries()[:3]]
    assert limits == [16, 64, 512], "the limits of the table have changed: update this test"
    assert entries().index(select("sm_90", "half", problem, aligned=True, packed=packed)) == index


def test_an_unknown_architecture_error_lists_those_of_the_table() -> None:
    with pytest.raises(KernelError, match=r"sm_75.*sm_80.*sm_121"):
        select("sm_75", "half", Problem(5, 16, 16, 2, 0, 2), aligned=True)


def test_every_entry_meets_the_assumptions_of_chunks_and_sums() -> None:
    for entry in entries():
        assert plan.ROWS % entry.up.block_m == 0
        assert entry.up.block_m % entry.down.block_m == 0
        assert (entry.glu is None) == (entry.language == "cuda")
        if entry.glu:
            assert plan.ROWS % entry.glu.block_m == 0
            assert entry.glu.block_m % entry.down.block_m == 0
            assert entry.glu_reason
        assert 0 <= entry.split <= plan.MAX_SPLIT
        assert entry.alignment == 1 or entry.alignment % 16 == 0
        assert entry.language in ("triton", "cuda")
        assert set(entry.archs) <= set(ARCHITECTURES)
        assert entry.reason


def broken(**changes: Any) -> dict[str, Any]:
    """A table whose only entry is changed."""
    tile = {"block_m": 64, "block_n": 64, "block_k": 32, "warps": 4, "stages": 3}
    entry = {
        "archs": ["sm_80"],
        "precision": "half",
        "alignment": 1,
        "max_tokens": None,
        "up": tile,
        "down": tile,
        "split": 0,
        "reason": "r",
    }
    return json.loads(json.dumps({"schema": SCHEMA, "entries": [entry | changes]}))


def test_a_table_survives_a_round_trip() -> None:
    (entry,) = parse(broken())
    assert (entry.archs, entry.up.block_m, entry.up.registers) == (("sm_80",), 64, 0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"schema": 9, "entries": []}, "schema 9, expected 1"),
        (broken(up={"block_m": 64}), "tile table is broken.*block_n"),
        (broken(colour="red"), "tile table is broken.*colour"),
        ({"schema": SCHEMA}, "tile table is broken.*entries"),
        (broken(down={"block_m": 48, "block_n": 64, "block_k": 32, "warps": 4, "stages": 3}), "48 .*64"),
        (
            broken(glu={"block_m": 32, "block_n": 64, "block_k": 32, "warps": 4, "stages": 3}),
            "down.block_m = 64 does not divide glu.block_m = 32",
        ),
    ],
)
def test_a_broken_table_error_names_the_fault(table: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        parse(table)
