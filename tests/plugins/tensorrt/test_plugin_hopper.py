"""The plugin's core launches on Hopper what plugins/kernels/packed.py launches, maps included."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from plugin_cases import QUANTIZED_CASES, Case
from plugin_core import Core, Driver, EncodedMap, pointers
from plugin_launches import placed, run_python

from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import hopper, launch, launch_quantized
from acm_export.plugins.kernels import packed as packed_module
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.packed import PackedKernels
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plugin_core import Launch

pytest_plugins = ["plugin_fixtures"]

MULTIPROCESSORS = 132  # of the fake driver
CASES = [
    Case(leading=(tokens,), model_dim=model_dim, hidden_dim=hidden_dim, dtype=dtype)
    for tokens in (513, 1000, 25_216)
    for model_dim, hidden_dim in ((768, 768), (256, 256), (80, 336))
    for dtype in ("float16", "bfloat16")
] + [
    Case(leading=(3, 20_000), model_dim=768, hidden_dim=768),  # several chunks
    Case(leading=(9, 3000), model_dim=16, hidden_dim=1024, num_learners=7, min_learners=3, activation="silu"),
]

TRITON_CASES = [
    *(Case(leading=(tokens,), model_dim=768, hidden_dim=768) for tokens in (1, 40, 197, 300, 512)),
    *(Case(leading=(tokens,), model_dim=65, hidden_dim=24, dtype="bfloat16") for tokens in (30, 3000)),
    *(Case(leading=(2000,), model_dim=256, hidden_dim=80, dtype="float32", allow_tf32=tf32) for tf32 in (False, True)),
    Case(leading=(2, 150), model_dim=64, hidden_dim=40, num_learners=40, min_learners=3, activation="relu"),
    *QUANTIZED_CASES,
]


@pytest.fixture(scope="module")
def packed(fake_pack: Path, fake_driver: Path) -> PackedKernels:
    return PackedKernels(read_pack(fake_pack), "sm_90", MULTIPROCESSORS, library=str(fake_driver))


def gemms(core: Core, driver: Driver, case: Case, **changes: int) -> list[Launch]:
    assert core.layer(case).enqueue(case.tensors(), pointers(**changes)), core.error
    return [run for run in driver.launches() if run.kernel.kernel.startswith(("up", "down"))]


@pytest.fixture
def launches_of_python(
    driver: Driver, recorded: Any, packed: PackedKernels, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Case], list[Launch]]:
    """What plugins/kernels/launch.py launches with the pack; nothing is left to Triton."""

    def allocate(size: int, _device: torch.device) -> torch.Tensor:
        workspaces.append(torch.empty(size, dtype=torch.uint8))
        return workspaces[-1]

    workspaces: list[torch.Tensor] = []
    monkeypatch.setattr(packed_module, "allocate", allocate)
    for launcher in (launch, launch_quantized):
        monkeypatch.setattr(launcher, "usable_pack", lambda _: packed)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))

    def run(case: Case) -> list[Launch]:
        starts = run_python(case, "sm_90", monkeypatch)
        found = driver.launches(lambda address: placed(address, starts, workspaces[-1].data_ptr()))
        assert recorded == []
        return found

    return run


def agreed_launches(
    core: Core, driver: Driver, launches_of_python: Callable[[Case], list[Launch]], case: Case
) -> tuple[list[Launch], int]:
    """Launches of the plugin's core, which are those of Python, and how many of them may start early."""
    expected = launches_of_python(case)
    assert core.layer(case).enqueue(case.tensors()), core.error
    num_overlapping, ours = driver.num_overlapping, driver.launches()
    assert ours == expected
    return ours, num_overlapping


@pytest.mark.parametrize("case", CASES, ids=str)
def test_launches_of_kernels_in_cuda_agree(
    core: Core, driver: Driver, launches_of_python: Callable[[Case], list[Launch]], case: Case
) -> None:
    ours, num_overlapping = agreed_launches(core, driver, launches_of_python, case)
    assert next(run for run in ours if run.kernel.kernel == "place_tokens").arguments["num_arrivals"] == 0
    chunks = len(list(case.problem.chunks()))
    assert [run.kernel.kernel for run in ours[-2 * chunks :]] == [hopper.UP, hopper.DOWN] * chunks
    assert num_overlapping == 2 * chunks


@pytest.mark.parametrize("case", TRITON_CASES, ids=str)
def test_launches_of_triton_s_kernels_from_the_pack_agree(
    core: Core, driver: Driver, launches_of_python: Callable[[Case], list[Launch]], case: Case
) -> None:
    ours, num_overlapping = agreed_launches(core, driver, launches_of_python, case)
    assert not {run.kernel.kernel for run in ours} & set(hopper.SOURCES)
    assert num_overlapping == 0


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
        *(
            (WIDE, {name: address + 8})
            for name, address in (("x", 1 << 36), ("w1", 4 << 36), ("y", 8 << 36), ("workspace", 10 << 36))
        ),
    ],
)
def test_triton_s_kernels_run_what_hopper_s_cannot_or_should_not(
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
