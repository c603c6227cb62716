"""What the plugin's core launches is what plugins/kernels/launch.py launches: kernels, grids, arguments, in order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from plugin_build import build, compile_stand_in_driver
from plugin_core import Case, Core, Driver, EncodedMap, pointers
from plugin_pack import argument_names

from acm_export.op.signature import ACTIVATIONS, INPUTS, Signature
from acm_export.plugins.kernels import hopper, launch, plan
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.packed import PackedKernels
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from pathlib import Path

    from plugin_core import Launch, Place

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
]

MULTIPROCESSORS = 132  # of the stand-in driver
HOPPER_CASES = [
    Case(leading=(tokens,), model_dim=model_dim, hidden_dim=hidden_dim, dtype=dtype)
    for tokens in (513, 1000, 25_216)
    for model_dim, hidden_dim in ((768, 768), (256, 256), (80, 336))
    for dtype in ("float16", "bfloat16")
] + [
    Case(leading=(3, 20_000), model_dim=768, hidden_dim=768),  # several chunks
    Case(leading=(9, 3000), model_dim=16, hidden_dim=1024, num_learners=7, min_learners=3, activation="silu"),
]


class Recorder:
    """Stands in the place of a Triton kernel and records what it is launched with."""

    def __init__(self, name: str, log: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]]) -> None:
        self._name, self._log = name, log

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> None:
            named = dict(zip(argument_names()[self._name], arguments, strict=True))
            self._log.append((self._name, grid, named, constants))

        return run


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]]:
    log: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]] = []
    for module, names in (
        ("routing", ("route_one_block", "count_tokens", "scan_blocks", "place_tokens")),
        ("up", ("up",)), ("down", ("down", "down_split")),
    ):  # fmt: skip
        monkeypatch.setattr(launch, module, SimpleNamespace(**{name: Recorder(name, log) for name in names}))
    return log


def run_python(case: Case, arch: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Names of the tensors by their addresses, after Python's launcher ran."""
    monkeypatch.setattr(launch, "architecture", lambda _: arch)
    tensors = {name: torch.empty(case.shapes()[name], dtype=getattr(torch, case.types()[name])) for name in INPUTS}
    signature = Signature(case.num_learners, case.min_learners, case.activation)
    y, counts = launch.gated_learners(*tensors.values(), signature, allow_tf32=case.allow_tf32)
    return {tensor.data_ptr(): name for name, tensor in {**tensors, "y": y, "counts": counts}.items()}


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
            expected = _placed(value.data_ptr(), starts, workspace) if isinstance(value, torch.Tensor) else value
            assert run.arguments[argument] == expected, (name, argument)
        assert run.block == 32 * constants["num_warps"]
        assert run.stream == 77
        _check_constants(run, constants, case)


def _placed(address: int, starts: dict[int, str], workspace: int) -> Place:
    name = starts.get(address)
    return (name, 0) if name else ("workspace", address - workspace)


def _check_constants(run: Launch, constants: dict[str, Any], case: Case) -> None:
    if run.kernel.kernel in ("up", "down", "down_split"):
        entry = entries()[run.kernel.entry]
        tile = entry.up if run.kernel.kernel == "up" else entry.down
        assert (tile.block_m, tile.block_n, tile.block_k) == tuple(constants[f"BLOCK_{axis}"] for axis in "MNK")
        assert run.kernel.even == (constants["EVEN"] and entry.alignment > 1 and case.dtype != "float32")
        assert (run.kernel.dtype == "tf32") == (constants["PRECISION"] == "tf32")
    elif "CHOICES" in constants:
        assert run.kernel.entry == constants["CHOICES"]


@pytest.mark.parametrize("case", HOPPER_CASES, ids=str)
def test_launches_of_kernels_in_cuda_agree(
    core: Core, driver: Driver, recorded: Any, packed: PackedKernels, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr(launch, "usable_pack", lambda _: packed)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))
    starts = run_python(case, "sm_90", monkeypatch)
    workspace = next(named["reach"].data_ptr() for _, _, named, _ in recorded if "reach" in named)
    expected = driver.launches(lambda address: _placed(address, starts, workspace))
    assert {name for name, *_ in recorded} <= {"count_tokens", "scan_blocks", "place_tokens"}

    assert core.layer(case).enqueue(case.tensors()), core.error
    ours = driver.launches()
    assert [run.kernel.kernel for run in ours[: len(recorded)]] == [name for name, *_ in recorded]
    assert ours[len(recorded) :] == expected
    assert next(run for run in ours if run.kernel.kernel == "place_tokens").arguments["num_arrivals"] == 0
    chunks = len(list(case.problem.chunks()))
    assert [run.kernel.kernel for run in expected] == [hopper.UP, hopper.DOWN] * chunks


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
    assert len(seen) == 4, "routed in one launch and in three, with a GEMM 2 that is split and with a whole one"


@pytest.fixture(scope="module")
def packed(stand_in_pack: Path, stand_in_driver: Path) -> PackedKernels:
    return PackedKernels(read_pack(stand_in_pack), "sm_90", MULTIPROCESSORS, library=str(stand_in_driver))


def gemms(core: Core, driver: Driver, case: Case, **changes: int) -> list[Launch]:
    assert core.layer(case).enqueue(case.tensors(), pointers(**changes)), core.error
    return [run for run in driver.launches() if run.kernel.kernel.startswith(("up", "down"))]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_hopper_gets_maps_of_its_tensors_and_a_block_for_each_multiprocessor(
    core: Core, driver: Driver, dtype: str
) -> None:
    # written out: what both launchers would get wrong in the same way
    d, h, n = 768, 1536, 4
    up, down = gemms(core, driver, Case(leading=(1000,), model_dim=d, hidden_dim=h, num_learners=n, dtype=dtype))
    assert (up.grid, down.grid) == ((MULTIPROCESSORS, 1), (4 * 8, 1))
    assert (up.kernel.dtype, down.kernel.dtype) == ({"float16": "fp16", "bfloat16": "bf16"}[dtype],) * 2
    assert (up.block, down.block) == (384, 384)
    assert up.arguments["w1_map"] == EncodedMap(dtype, ("w1", 0), (h, n, d), (2 * h, 2 * n * h), (64, 1, 64))
    assert down.arguments["w2_map"] == EncodedMap(dtype, ("w2", 0), (d, h, n), (2 * d, 2 * h * d), (64, 64, 1))
    hidden = up.arguments["hidden"]
    assert isinstance(hidden, tuple)
    assert hidden[0] == "workspace"
    assert down.arguments["hidden_map"] == EncodedMap(dtype, hidden, (h, n, 1024), (2 * h, 2 * n * h), (64, 1, 128))
    sizes = {"first_row": 0, "num_rows": 1000, "model_dim": d, "hidden_dim": h, "num_learners": n}
    assert sizes.items() <= up.arguments.items()
    assert sizes.items() <= down.arguments.items()


def test_each_chunk_has_its_own_map_of_the_hidden_values(core: Core, driver: Driver) -> None:
    case = Case(leading=(60_000,), model_dim=256, hidden_dim=1536)
    runs = [run for run in gemms(core, driver, case) if run.kernel.kernel == hopper.DOWN]
    assert len(runs) > 2
    for run, (first, rows) in zip(runs, case.problem.chunks(), strict=True):
        hidden = run.arguments["hidden_map"]
        assert isinstance(hidden, EncodedMap)
        assert (run.arguments["first_row"], run.arguments["num_rows"]) == (first, rows)
        assert hidden.dims == (1536, 4, -(-rows // 128) * 128)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hopper_applies_the_activation_of_the_layer(core: Core, driver: Driver, activation: str) -> None:
    up, down = gemms(core, driver, Case(leading=(1000,), model_dim=256, hidden_dim=256, activation=activation))
    assert (up.kernel.kernel, up.kernel.activation) == (hopper.UP, activation)
    assert (down.kernel.kernel, down.kernel.activation) == (hopper.DOWN, "")


WIDE = Case(leading=(1000,), model_dim=768, hidden_dim=768)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (replace(WIDE, leading=(512,)), {}),
        (replace(WIDE, model_dim=65), {}),
        (replace(WIDE, dtype="float32"), {}),
        (replace(WIDE, dtype="float32", allow_tf32=True), {}),
        *((WIDE, {name: address + 8}) for name, address in
          (("x", 1 << 36), ("w1", 4 << 36), ("y", 8 << 36), ("workspace", 10 << 36))),
    ],
)  # fmt: skip
def test_what_hopper_s_kernels_cannot_run_or_are_not_meant_for_runs_those_of_triton(
    core: Core, driver: Driver, case: Case, changes: dict[str, int]
) -> None:
    up, down, *_ = gemms(core, driver, case, **changes)
    assert entries()[up.kernel.entry].language == "triton"
    assert (up.kernel.kernel, down.kernel.kernel) in (("up", "down"), ("up", "down_split"))


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0), (12, 0)])
def test_other_architectures_never_get_the_kernels_for_hopper(
    core: Core, driver: Driver, capability: tuple[int, int]
) -> None:
    driver.reset(capability)
    assert [run.kernel.kernel for run in gemms(core, driver, WIDE)] == ["up", "down"]
    assert {entries()[tactic - 1].language for tactic in core.layer(WIDE).tactics(WIDE.tensors())} == {"triton"}


@pytest.fixture(scope="module")
def cuda_11_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_stand_in_driver(tmp_path_factory.mktemp("cuda_11"), "plugin_fake_cuda.cpp", "ACM_FAKE_CUDA_11")


@pytest.fixture(scope="module")
def core_for_cuda_11(stand_in_pack: Path, cuda_11_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    """A second library: each opens the driver once."""
    return Core(build("acm_core_harness", tmp_path_factory.mktemp("core_11"), stand_in_pack), cuda_11_library)


@pytest.fixture
def cuda_11(core_for_cuda_11: Core, cuda_11_library: Path) -> Driver:
    """The driver of ``core_for_cuda_11``, which encodes no tensor maps."""
    assert core_for_cuda_11
    stand_in = Driver(cuda_11_library)
    stand_in.reset()
    return stand_in


def test_a_driver_that_encodes_no_tensor_maps_runs_the_kernels_of_triton(
    core_for_cuda_11: Core, cuda_11: Driver
) -> None:
    layer = core_for_cuda_11.layer(WIDE)
    tactics = layer.tactics(WIDE.tensors())
    assert {entries()[tactic - 1].language for tactic in tactics} == {"triton"}
    for_cuda = next(i for i, entry in enumerate(entries()) if entry.language == "cuda")
    for tactic in (0, for_cuda + 1):
        assert layer.set_tactic(tactic)
        assert layer.enqueue(WIDE.tensors()), core_for_cuda_11.error
        assert [run.kernel.kernel for run in cuda_11.launches()][-2:] == ["up", "down"]


def test_nothing_is_launched_for_no_tokens(core: Core, driver: Driver) -> None:
    case = Case(leading=(3, 0))
    nowhere = pointers(**dict.fromkeys(("x", "gate_logits", "y", "counts", "workspace"), 0))
    assert core.layer(case).enqueue(case.tensors(), nowhere), core.error
    assert driver.launches() == []
    assert core.layer(case).workspace(case.tensors()) == 0


def test_kernels_are_loaded_once_and_before_the_first_launch(core: Core, driver: Driver) -> None:
    driver.context(0x2000, 7)
    case = Case(leading=(197,), num_learners=5)
    layer = core.layer(case)
    assert layer.prepare(case.tensors()), core.error
    loaded = driver.num_modules
    assert driver.launches() == []
    for tokens in (1, 16, 64, 197, 4096):  # every entry of the table, aligned and not
        other = replace(case, leading=(tokens,))
        assert layer.enqueue(other.tensors()), core.error
        assert layer.enqueue(other.tensors(), pointers(x=(1 << 36) + 4)), core.error
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


def test_a_tactic_forces_its_tiles_where_they_can_run(core: Core, driver: Driver) -> None:
    case = Case(leading=(64,))
    layer = core.layer(case)
    tactics = layer.tactics(case.tensors())
    assert len(tactics) > 2
    for tactic in tactics:
        assert layer.set_tactic(tactic)
        assert layer.enqueue(case.tensors()), core.error
        assert {run.kernel.entry for run in driver.launches() if run.kernel.kernel.startswith("up")} == {tactic - 1}


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


def test_a_tactic_that_does_not_exist_is_refused(core: Core) -> None:
    assert not core.layer(Case()).set_tactic(len(entries()) + 1)
    assert f"tactic {len(entries()) + 1}" in core.error


@pytest.mark.parametrize("name", ["x", "w1", "b1", "w2", "b2", "y", "workspace"])
def test_an_unaligned_address_gets_kernels_without_wide_loads(core: Core, driver: Driver, name: str) -> None:
    case = Case()
    address = getattr(_addresses(), name)
    assert core.layer(case).enqueue(case.tensors(), pointers(**{name: address + 4})), core.error
    up = next(run for run in driver.launches() if run.kernel.kernel == "up")
    assert entries()[up.kernel.entry].alignment == 1


def _addresses() -> SimpleNamespace:
    p = pointers()
    return SimpleNamespace(
        **dict(zip(INPUTS, p.inputs, strict=True)), y=p.outputs[0], counts=p.outputs[1], workspace=p.workspace
    )


def test_discrete_chips_of_the_8_family_run_sm_80(core: Core, driver: Driver) -> None:
    driver.reset((8, 8))
    assert core.layer(Case()).enqueue(Case().tensors()), core.error
    assert {run.kernel.arch for run in driver.launches()} == {"sm_80"}


def test_an_unsupported_chip_is_refused(core: Core, driver: Driver) -> None:
    driver.reset((7, 2), integrated=True)
    driver.context(0x7000, 20)
    assert not core.layer(Case()).enqueue(Case().tensors())
    assert "an integrated GPU of architecture sm_72; the pack holds sm_80" in core.error


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


@pytest.mark.parametrize("name", [*INPUTS, "y", "counts", "workspace"])
def test_a_null_address_is_refused_before_any_launch(core: Core, driver: Driver, name: str) -> None:
    assert not core.layer(Case()).enqueue(Case().tensors(), pointers(**{name: 0}))
    assert f"the address of {'the workspace' if name == 'workspace' else name} is null" in core.error
    assert driver.launches() == []
