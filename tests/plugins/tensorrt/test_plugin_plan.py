"""The C++ plan is the Python plan: workspace, chunks, grids, tile selection, architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from acm_export.base.errors import KernelError
from acm_export.plugins.kernels import grids, hopper, plan
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.plan import MAX_TOKENS, Problem
from acm_export.plugins.kernels.tiles import ARCHITECTURES, CUDA_VALUES, PRECISIONS, entries, select

if TYPE_CHECKING:
    from pathlib import Path

    from plugin_core import Core

pytest_plugins = ["plugin_fixtures"]

TOKENS = st.one_of(st.integers(1, 700), st.integers(1, 1 << 21), st.sampled_from([MAX_TOKENS, 25216, 64, 65]))
SIZES = st.one_of(st.sampled_from([768, 1280, 3072, 16, 48]), st.integers(1, 5000))
MAX_SIZE = (1 << 63) - 1
POWERS = st.integers(1, 62).map(lambda exponent: 1 << exponent)
HUGE_SIZES = st.one_of(
    SIZES,
    POWERS,
    POWERS.map(lambda power: 2 * power - 1),
    st.integers(1, MAX_SIZE),
    st.integers(MAX_SIZE - 99, MAX_SIZE),
)


@st.composite
def problems(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> Problem:
    num_learners = draw(st.integers(1, 64))
    return Problem(
        draw(TOKENS),
        draw(sizes),
        draw(sizes),
        num_learners,
        draw(st.integers(0, num_learners)),
        draw(st.sampled_from([1, 2, 4])),
        draw(st.booleans()),
    )


PROBLEMS = st.one_of(problems(), problems(HUGE_SIZES))


def planned(problem: Problem) -> list[int]:
    layout, blocks = plan.workspace(problem), plan.routing(problem)
    return [
        layout.reach,
        layout.order,
        layout.histograms,
        layout.arrivals,
        layout.q,
        layout.hidden,
        layout.partial,
        layout.size,
        problem.chunk_rows,
        problem.partial_bytes,
        problem.arrivals,
        blocks.block,
        blocks.choices,
        blocks.num_pieces,
        blocks.num_blocks,
    ]


@given(problem=PROBLEMS)
def test_workspace_chunks_and_routing_agree(core: Core, problem: Problem) -> None:
    expected = planned(problem)
    assert core.plan(problem) == (expected if max(expected) <= MAX_SIZE else None)


@pytest.mark.parametrize("choices", [8, 9, 32, 33])
@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_plans_around_the_most_blocks_of_routing_agree(core: Core, choices: int, multiple: int) -> None:
    block = next(block for most, block in plan.ROUTING_BLOCKS if most >= choices)
    for beside in (-1, 0, 1, block, block + 1):
        problem = Problem(multiple * plan.MAX_ROUTING_BLOCKS * block + beside, 16, 16, choices - 1, 0, 2)
        assert core.plan(problem) == planned(problem)


@given(problem=PROBLEMS, split=st.one_of(st.integers(0, 4), HUGE_SIZES))
def test_splitting_agrees(core: Core, problem: Problem, split: int) -> None:
    assert core.splits(problem, split) == problem.splits(split)


@pytest.mark.parametrize("model_dim", [1, 32, 33, 768, 5000, 1 << 19, (1 << 23) - 1, 1 << 23])
def test_there_is_an_arrival_for_every_tile_of_an_entry_that_splits(core: Core, model_dim: int) -> None:
    for index, entry in enumerate(entries()):
        if not entry.split:
            continue
        limit = (32 << 20) // (4 * entry.split * model_dim)  # of tokens, with one learner
        for tokens in (t for t in (1, 17, limit - 1, limit) if 1 <= t <= MAX_TOKENS):
            problem = Problem(tokens, model_dim, 16, 1, 0, 2)
            grids, planned = core.grids(problem, index, tokens), core.plan(problem)
            assert grids is not None
            assert planned is not None
            assert not core.splits(problem, entry.split) or grids[1] <= planned[10]


@given(problem=PROBLEMS, data=st.data())
def test_grids_agree(core: Core, problem: Problem, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries()) - 1))
    rows = data.draw(st.one_of(st.integers(1, problem.chunk_rows), HUGE_SIZES))
    entry = entries()[index]
    problem = replace(problem, glu=problem.glu and entry.glu is not None)
    expected = (grids.up_grid(problem, entry, rows), grids.down_grid(problem, entry, rows), *grids.even(problem, entry))
    assert core.grids(problem, index, rows) == (expected if max(expected) <= MAX_SIZE else None)


@given(problem=PROBLEMS, rows=st.integers(1, 1 << 20))
def test_grids_of_rounding_to_int8_agree(core: Core, problem: Problem, rows: int) -> None:
    assert core.quantize_grid(problem, rows) == grids.quantize_grid(problem, rows)


@pytest.mark.parametrize("size", [(1 << 31) - 1, 1 << 62, MAX_SIZE - 15, MAX_SIZE])
def test_plans_near_the_largest_64_bit_number_agree(core: Core, size: int) -> None:
    for problem in (
        Problem(MAX_TOKENS, size, 16, 64, 0, 4),
        Problem(1, 16, size, 1, 0, 2),
        Problem(MAX_TOKENS, size, size, 64, 0, 4),
        Problem(MAX_TOKENS, size, 16, 64, 0, 1),
        Problem(MAX_TOKENS, 16, size, 64, 0, 1),
        Problem(1, size, size, 1, 0, 1),
    ):
        expected = planned(problem)
        assert core.plan(problem) == (expected if max(expected) <= MAX_SIZE else None)
        assert core.splits(problem, 4) == problem.splits(4)


def test_a_size_of_more_than_64_bits_is_rejected_with_its_factors(core: Core) -> None:
    assert core.plan(Problem(1, 16, 1 << 62, 8, 0, 2)) is None
    assert core.error == f"the size 8 * {1 << 62} is larger than {MAX_SIZE}"
    assert core.grids(Problem(1, 16, MAX_SIZE, 64, 0, 2), 0, MAX_SIZE) is None
    assert core.error.endswith(f" * 64 is larger than {MAX_SIZE}")


@given(
    problem=PROBLEMS,
    arch=st.sampled_from(ARCHITECTURES),
    precision=st.sampled_from(PRECISIONS),
    aligned=st.booleans(),
    packed=st.booleans(),
)
def test_tile_selection_agrees(
    core: Core, problem: Problem, arch: str, precision: str, aligned: bool, packed: bool
) -> None:
    expected = select(arch, precision, problem, aligned=aligned, packed=packed)
    assert entries()[core.select(arch, precision, problem, aligned=aligned, packed=packed)] == expected


@pytest.mark.parametrize(
    ("tokens", "width"),
    [(CUDA_VALUES // 768, 768), (CUDA_VALUES // 1024, 1024), (CUDA_VALUES // 1536 - 1, 1536), (2000, 1 << 60)],
)
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_kernels_in_cuda_are_selected_as_far_as_they_can_number_x(
    core: Core, tokens: int, width: int, more: int
) -> None:
    problem = Problem(tokens + more, width, 768, 4, 0, 2)
    expected = select("sm_90", "half", problem, aligned=True, packed=True)
    assert (expected.language == "cuda") == ((tokens + more) * width < CUDA_VALUES)
    assert entries()[core.select("sm_90", "half", problem, aligned=True)] == expected


def test_no_kernels_in_cuda_are_selected_where_the_driver_encodes_no_tensor_maps(core: Core) -> None:
    problem = Problem(25216, 768, 768, 4, 0, 2)
    chosen = [entries()[core.select("sm_90", "half", problem, aligned=True, packed=packed)] for packed in (True, False)]
    assert [entry.language for entry in chosen] == ["cuda", "triton"]


def greatest(maps: dict[str, hopper.TensorMap]) -> int:
    return max(size for tensor_map in maps.values() for size in (*tensor_map.dims, *tensor_map.strides))


@given(problem=PROBLEMS, data=st.data())
def test_tensor_maps_agree(core: Core, problem: Problem, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries()) - 1))
    rows = data.draw(st.one_of(st.integers(1, problem.chunk_rows), HUGE_SIZES))
    expected = hopper.tensor_maps(problem, entries()[index], rows)
    assert core.tensor_maps(problem, index, rows) == (expected if greatest(expected) <= MAX_SIZE else None)


@given(problem=PROBLEMS, multiprocessors=st.integers(1, 300), data=st.data())
def test_grids_for_multiprocessors_agree(
    core: Core, problem: Problem, multiprocessors: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(entries()) - 1))
    rows = data.draw(st.one_of(st.integers(1, problem.chunk_rows), HUGE_SIZES))
    entry = entries()[index]
    assume(entry.glu is not None or not problem.glu)  # kernels in CUDA have no form for gated FFNs
    tiles = grids.up_grid(problem, entry, rows), grids.down_grid(problem, entry, rows)
    expected = hopper.grids(problem, entry, rows, multiprocessors) if max(tiles) <= MAX_SIZE else None
    assert core.hopper_grids(problem, index, rows, multiprocessors) == expected


def test_a_tensor_map_of_more_than_64_bits_is_rejected_with_its_factors(core: Core) -> None:
    assert core.tensor_maps(Problem(1, 16, 1 << 62, 1, 0, 2), 0, 1) is None
    assert core.error == f"the size 2 * {1 << 62} is larger than {MAX_SIZE}"


def test_an_unknown_architecture_has_no_tiles(core: Core) -> None:
    assert core.select("sm_75", "half", Problem(1, 16, 16, 1, 0, 2), aligned=True) == -1
    assert "sm_75" in core.error
    assert "sm_80" in core.error


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize(
    "capability",
    [
        (7, 5),
        (8, 0),
        (8, 6),
        (8, 7),
        (8, 8),
        (8, 9),
        (9, 0),
        (10, 0),
        (10, 1),
        (10, 3),
        (11, 0),
        (12, 0),
        (12, 1),
        (13, 0),
    ],
)
def test_architecture_choice_agrees(core: Core, fake_pack: Path, capability: tuple[int, int], integrated: bool) -> None:
    try:
        expected, reason = read_pack(fake_pack).architecture_for(capability, integrated=integrated), ""
    except KernelError as error:
        expected, reason = None, str(error)
    assert core.architecture(*capability, integrated=integrated) == expected
    assert expected or core.error == reason
