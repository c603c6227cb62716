"""The plugin's core launches what plugins/kernels/launch.py and launch_quantized.py launch: kernels, grids, arguments.

The kernels for Hopper: test_plugin_hopper.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from plugin_build import each_operator
from plugin_cases import GLU_CASES, QUANTIZED_CASES, Case, GluCase, QuantizedCase, QuantizedGluCase
from plugin_core import Core, Driver, address_of, pointers
from plugin_launches import placed, run_python

from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Launch

pytest_plugins = ["plugin_fixtures"]

CASES = [
    Case(leading=(1,)),
    Case(leading=(16,), dtype="bfloat16", activation="silu"),
    Case(leading=(2, 30), min_learners=1),
    Case(leading=(197,)),
    Case(leading=(3, 400), model_dim=128, hidden_dim=256, activation="relu"),
    Case(leading=(257,), num_learners=7),
    Case(leading=(40,), num_learners=64, hidden_dim=16),
    Case(leading=(5,), num_learners=40, min_learners=40),
    Case(leading=(300,), model_dim=65, hidden_dim=33),
    Case(leading=(30,), model_dim=48, hidden_dim=80),
    Case(leading=(50,), dtype="float32", activation="gelu_tanh"),
    Case(leading=(500,), dtype="float32", model_dim=1040, activation="identity"),
    Case(leading=(64,), dtype="float32", allow_tf32=True),
    Case(leading=(65,), dtype="float32", allow_tf32=True),
    Case(leading=(9, 3000), model_dim=16, hidden_dim=1024, num_learners=4),  # several chunks
    Case(leading=(2, 17_000), model_dim=16, hidden_dim=16, num_learners=64),  # several pieces of tokens for each block
    *QUANTIZED_CASES,
    *GLU_CASES,
]

LAYERS = [Case(num_learners=5), QuantizedCase(), GluCase(), QuantizedGluCase()]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_110"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_launches_of_kernels_in_triton_agree(
    core_for_cuda_11: Core, cuda_11: Driver, recorded: Any, monkeypatch: pytest.MonkeyPatch, case: Case, arch: str
) -> None:
    core, driver = core_for_cuda_11, cuda_11
    starts = run_python(case, arch, monkeypatch)

    number = int(arch[3:])
    driver.reset((number // 10, number % 10), integrated=arch == "sm_110")
    assert core.layer(case).enqueue(case.tensors()), core.error
    ours = driver.launches()

    assert [(run.kernel.kernel, run.grid) for run in ours] == [(name, (*grid, 1)[:2]) for name, grid, *_ in recorded]
    workspace = next(named["reach"].data_ptr() for _, _, named, _ in recorded if "reach" in named)
    for run, (name, _, named, constants) in zip(ours, recorded, strict=True):
        for argument, value in named.items():
            expected = placed(value.data_ptr(), starts, workspace) if isinstance(value, torch.Tensor) else value
            assert run.arguments[argument] == expected, (name, argument)
        assert run.block == 32 * constants["num_warps"]
        assert run.stream == 77
        _check_constants(run, constants, case)


def _check_constants(run: Launch, constants: dict[str, Any], case: Case) -> None:
    if run.kernel.kernel.startswith(("up", "down")):
        entry = entries()[run.kernel.entry]
        is_up = run.kernel.kernel.startswith("up")
        tile = entry.down if not is_up else entry.glu if case.glu else entry.up
        assert tile is not None
        assert (tile.block_m, tile.block_n, tile.block_k) == tuple(constants[f"BLOCK_{axis}"] for axis in "MNK")
        has_even = entry.alignment > 1 and (case.quantized or case.dtype != "float32")
        has_even = has_even and not (is_up and case.glu and entry.max_tokens)
        assert run.kernel.even == (constants["EVEN"] and has_even)
        assert (run.kernel.dtype == "tf32") == (constants.get("PRECISION") == "tf32")
    elif "CHOICES" in constants:
        assert run.kernel.entry == constants["CHOICES"]


def test_routing_clears_the_arrivals_of_every_tile_of_a_split_gemm_2(core: Core, driver: Driver) -> None:
    # written out: what both launchers would get wrong in the same way
    seen = set()
    for tokens in (1, 60, 300):
        case = Case(leading=(tokens,), model_dim=80, num_learners=3)
        layer = core.layer(case)
        for tactic in layer.tactics(case.tensors()):
            assert layer.set_tactic(tactic)
            assert layer.enqueue(case.tensors()), core.error
            runs = {run.kernel.kernel: run for run in driver.launches()}
            route = runs.get("route_one_block") or runs["place_tokens"]
            split = runs.get("down_split")
            seen.add((route.kernel.kernel, split is not None))
            if split is None:
                assert route.arguments["num_arrivals"] == 0
                continue
            tile = entries()[tactic - 1].down
            tiles = -(-tokens // tile.block_m) * -(-80 // tile.block_n)
            assert split.grid == (tiles, 3 * entries()[tactic - 1].split)
            assert route.arguments["num_arrivals"] == tiles
            layout = plan.workspace(case.problem)
            assert route.arguments["arrivals"] == split.arguments["arrivals"] == ("workspace", layout.arrivals)
            assert layout.arrivals + 4 * tiles <= layout.hidden
    assert len(seen) == 4, "routed in one launch and in two, with a GEMM 2 that is split and with a whole one"


@pytest.mark.parametrize(
    ("tokens", "learners", "blocks", "pieces"),
    [(25_216, 4, 99, 1), (131_072, 4, 512, 1), (131_073, 4, 257, 2), (34_000, 64, 355, 3)],
)
def test_many_tokens_are_routed_by_two_launches_of_at_most_512_blocks(
    core: Core, driver: Driver, tokens: int, learners: int, blocks: int, pieces: int
) -> None:
    # written out: what both launchers would get wrong in the same way
    case = Case(leading=(tokens,), model_dim=16, hidden_dim=16, num_learners=learners)
    assert core.layer(case).enqueue(case.tensors()), core.error
    count, place, *products = driver.launches()
    assert [run.kernel.kernel for run in (count, place)] == ["count_tokens", "place_tokens"]
    assert {run.kernel.kernel.partition("_")[0] for run in products} == {"up", "down"}
    histograms = ("workspace", plan.workspace(case.problem).histograms)
    for run in (count, place):
        assert run.grid == (blocks, 1)
        assert run.arguments["num_pieces"] == pieces
        assert run.arguments["histograms"] == histograms


@each_operator(LAYERS)
def test_nothing_is_launched_for_no_tokens(core: Core, driver: Driver, case: Case) -> None:
    none = replace(case, leading=(3, 0))
    nowhere = pointers(case.inputs, **dict.fromkeys(("x", "gate_logits", "y", "counts", "workspace"), 0))
    assert core.layer(none).enqueue(none.tensors(), nowhere), core.error
    assert core.layer(none).prepare(none.tensors()), core.error
    assert driver.launches() == []
    assert core.layer(none).workspace(none.tensors()) == 0


@each_operator(LAYERS)
def test_kernels_are_loaded_once_and_before_the_first_launch(core: Core, driver: Driver, case: Case) -> None:
    driver.context(0xA000 + len(case.inputs), 90 + len(case.inputs))
    layer = core.layer(case)
    assert layer.prepare(case.tensors()), core.error
    loaded = driver.num_modules
    assert driver.launches() == []
    for tokens in (1, 16, 64, 197, 4096):  # every entry of the table, aligned and not
        other = replace(case, leading=(tokens,))
        for addresses in ({}, {"x": address_of("x") + 4}):
            assert layer.enqueue(other.tensors(), pointers(case.inputs, **addresses)), core.error
        assert core.layer(other).enqueue(other.tensors())
    assert driver.num_modules == loaded


def test_each_context_has_its_own_kernels(core: Core, driver: Driver) -> None:
    case = Case()
    layer = core.layer(case)
    for context in ((0x3000, 8), (0x4000, 9), (0x3000, 10)):  # the last: a new context where the first one was
        before = driver.num_modules
        driver.context(*context)
        assert layer.enqueue(case.tensors()), core.error
        assert driver.num_modules > before


@each_operator(LAYERS)
@pytest.mark.parametrize("widths", [(64, 32), (768, 768)])
def test_a_tactic_forces_its_tiles_where_they_can_run(
    core: Core, driver: Driver, case: Case, widths: tuple[int, int]
) -> None:
    case = replace(case, leading=(64,), num_learners=4, model_dim=widths[0], hidden_dim=widths[1])
    layer = core.layer(case)
    tactics = layer.tactics(case.tensors())
    assert len(tactics) > 2
    for tactic in tactics:
        entry = entries()[tactic - 1]
        assert entry.precision == ("int8" if case.quantized else "half")
        assert entry.glu or not case.glu
        assert layer.set_tactic(tactic)
        assert layer.enqueue(case.tensors()), core.error
        products = [run.kernel for run in driver.launches() if run.kernel.kernel.startswith(("up", "down"))]
        assert {kernel.entry for kernel in products} == {tactic - 1}


def test_a_tactic_that_cannot_run_is_left_for_the_table(core: Core, driver: Driver) -> None:
    case = Case(leading=(100_000,))
    layer = core.layer(case)
    few = next(i for i, entry in enumerate(entries()) if entry.max_tokens == 16 and entry.precision == "half")
    assert few + 1 not in layer.tactics(case.tensors())
    assert layer.set_tactic(few + 1)
    assert layer.enqueue(case.tensors()), core.error
    chosen = {run.kernel.entry for run in driver.launches() if run.kernel.kernel.startswith("up")}
    assert len(chosen) == 1
    assert chosen != {few}


def test_a_tactic_that_does_not_exist_is_rejected(core: Core) -> None:
    assert not core.layer(Case()).set_tactic(len(entries()) + 1)
    assert f"tactic {len(entries()) + 1}" in core.error


LOADED_WIDELY = [(Case(), name) for name in ("x", "w1", "b1", "w2", "b2", "y", "workspace")]
LOADED_WIDELY += [(GluCase(), "v1"), (GluCase(), "c1")]
LOADED_WIDELY += [(QuantizedGluCase(), name) for name in ("v1", "t1", "c1")]


@pytest.mark.parametrize(("case", "name"), LOADED_WIDELY, ids=[f"{c.operator}-{name}" for c, name in LOADED_WIDELY])
def test_an_unaligned_address_gets_kernels_without_wide_loads(
    core: Core, driver: Driver, case: Case, name: str
) -> None:
    where = pointers(case.inputs, **{name: address_of(name) + 4})
    assert core.layer(case).enqueue(case.tensors(), where), core.error
    up = next(run for run in driver.launches() if run.kernel.kernel.startswith("up"))
    assert entries()[up.kernel.entry].alignment == 1


def test_discrete_chips_of_the_8_family_run_sm_80(core: Core, driver: Driver) -> None:
    driver.reset((8, 8))
    assert core.layer(Case()).enqueue(Case().tensors()), core.error
    assert {run.kernel.arch for run in driver.launches()} == {"sm_80"}


def test_an_unsupported_chip_is_rejected(core: Core, driver: Driver) -> None:
    driver.reset((7, 2), integrated=True)
    driver.context(0x7000, 20)
    assert not core.layer(Case()).enqueue(Case().tensors())
    assert "an integrated GPU of architecture sm_72; the pack has sm_80" in core.error


def test_a_failed_launch_is_an_error_and_leaves_the_layer_usable(core: Core, driver: Driver) -> None:
    layer = core.layer(Case())
    driver.fail_launches(700)
    assert not layer.enqueue(Case().tensors())
    assert "cuLaunchKernel" in core.error
    assert "CUDA_ERROR_FAKE (700)" in core.error
    driver.fail_launches(0)
    assert layer.enqueue(Case().tensors())


def test_no_current_context_is_an_error(core: Core, driver: Driver) -> None:
    driver.context(0, 0)
    assert not core.layer(Case()).enqueue(Case().tensors())
    assert "no CUDA context is current" in core.error


ADDRESSES = [(case, name) for case in LAYERS for name in (*case.names, "workspace")]


@pytest.mark.parametrize(("case", "name"), ADDRESSES, ids=[f"{case.operator}-{name}" for case, name in ADDRESSES])
def test_a_null_address_is_rejected_before_any_launch(core: Core, driver: Driver, case: Case, name: str) -> None:
    assert not core.layer(case).enqueue(case.tensors(), pointers(case.inputs, **{name: 0}))
    assert f"the address of {'the workspace' if name == 'workspace' else name} is null" in core.error
    assert driver.launches() == []
