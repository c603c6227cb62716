"""The plugin's life cycle as TensorRT drives it, for every set of headers that is found, with a fake driver."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set
from plugin_core import TENSORS, Case, c_tensor, pointers
from plugin_harness import Harness, fields_of

from acm_export.op.signature import ACTIVATIONS, INPUTS
from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from pathlib import Path

    from plugin_core import Driver
    from plugin_harness import Plugin

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()

CASE = Case(leading=(2, 50), model_dim=64, hidden_dim=32, num_learners=4, min_learners=1)
SMALLEST, LARGEST = replace(CASE, leading=(1, 1)), replace(CASE, leading=(8, 200))
CURRENT = replace(CASE, leading=(-1, -1))


def make(harness: Harness, case: Case = CASE) -> Plugin:
    plugin = harness.create(fields_of(case))
    assert plugin, harness.take_log()
    return plugin


def configure(plugin: Plugin) -> int:
    return plugin.configure(CURRENT.tensors(), SMALLEST.tensors(), LARGEST.tensors())


def test_from_fields_to_launches(harness: Harness, gpu: Driver) -> None:
    built = make(harness)
    tensors = CASE.tensors()
    assert all(built.supports(pos, tensors) for pos in range(len(TENSORS)))
    assert built.output_types(tensors) == ("float16", "int32")
    assert built.output_shapes(tensors) == [(2, 50, 64), (2, 50)]
    assert configure(built) == 0
    workspace = built.workspace(CURRENT.tensors(), SMALLEST.tensors(), LARGEST.tensors())
    assert workspace == plan.workspace(LARGEST.problem).size
    loaded = built.round_trip().attach()
    for leading in ((1, 1), (2, 50), (8, 200), (0, 7), (2, 50)):
        shapes = replace(CASE, leading=leading).tensors()
        assert loaded.change_shapes(shapes) == 0
        modules = gpu.num_modules
        for _ in range(3):
            assert loaded.enqueue(shapes) == 0
        launches = gpu.launches()
        assert bool(launches) == (0 not in leading)
        assert launches == launches[: len(launches) // 3] * 3
        assert gpu.num_modules == modules
    assert harness.take_log() == ""


def test_the_whole_life_in_one_call(harness: Harness, gpu: Driver) -> None:
    needed = plan.workspace(CASE.problem).size
    assert harness.run(CASE, pointers(), workspace_size=0) == needed
    assert gpu.launches() == []
    assert harness.run(CASE, pointers(), workspace_size=needed, times=5) == needed
    names = [run.kernel.kernel for run in gpu.launches()]
    assert names == names[: len(names) // 5] * 5


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_of_the_operator_are_supported(harness: Harness, dtype: str) -> None:
    case = replace(CASE, dtype=dtype)
    expected = harness.is_v3 or dtype != "bfloat16"  # TensorRT 8 has no bfloat16
    assert all(make(harness).supports(pos, case.tensors()) for pos in range(len(TENSORS))) == expected


def test_other_types_and_formats_are_not_supported(harness: Harness) -> None:
    plugin = make(harness)
    for pos, name in enumerate(TENSORS):
        assert not plugin.supports(pos, CASE.tensors(**{name: "other"}))
        tensors = CASE.tensors()
        tensors[pos] = c_tensor(CASE.types()[name], CASE.shapes()[name], linear=False)
        assert not plugin.supports(pos, tensors)
    assert not plugin.supports(3, CASE.tensors(w1="float32"))
    assert not plugin.supports(-1, CASE.tensors())
    assert not plugin.supports(9, CASE.tensors())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_attributes_survive_serialization(harness: Harness, gpu: Driver, activation: str) -> None:
    case = Case(num_learners=64, min_learners=13, activation=activation, dtype="float32", allow_tf32=True)
    plugin = make(harness, case).round_trip().round_trip().clone().attach()
    assert plugin.change_shapes(case.tensors()) == 0, harness.take_log()
    assert plugin.enqueue(case.tensors()) == 0, harness.take_log()
    up = next(run for run in gpu.launches() if run.kernel.kernel == "up")
    assert up.arguments["activation"] == ACTIVATIONS.index(activation)
    assert up.arguments["num_learners"] == 64
    assert up.kernel.dtype == "tf32"


BAD_FIELDS = [
    ({"num_learners": 0}, "num_learners is 0; it must be in 1..64"),
    ({"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    ({"min_learners": 5}, "min_learners is 5; with num_learners = 4 it must be in 0..4"),
    ({"min_learners": -1}, "min_learners is -1; with num_learners = 4 it must be in 0..4"),
    ({"activation": "tanh"}, "activation is 'tanh'; it must be one of gelu, gelu_tanh, relu, silu, identity"),
    ({"activation": b""}, "activation is ''"),
    ({"activation": 3}, "field activation has type 5, expected 6 (characters)"),
    ({"num_learners": "4"}, "field num_learners has type 6, expected 5 (one int32)"),
    ({"num_learners": None}, "field num_learners is missing"),
    ({"activation": None}, "field activation is missing"),
    ({"hidden_dim": 4}, "unknown field 'hidden_dim'"),
]


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize(("change", "reason"), BAD_FIELDS, ids=[str(change) for change, _ in BAD_FIELDS])
def test_bad_fields_are_rejected(
    harness: Harness, gpu: Driver, change: dict[str, int | str | bytes | None], reason: str, phase: str
) -> None:
    assert gpu.launches() == []
    assert harness.create(fields_of(CASE, **change), runtime_phase=phase == "runtime") is None
    log = harness.take_log()
    assert log.startswith(f"GatedLearners: createPlugin: {reason}")
    assert log.count("\n") == 1


def test_text_fields_with_and_without_nul(harness: Harness) -> None:
    for activation in ("gelu", b"gelu", b"gelu\0\0\0"):
        assert harness.create(fields_of(CASE, activation=activation))


def test_unequal_ranks_are_rejected_when_output_shapes_are_computed(harness: Harness, gpu: Driver) -> None:
    assert gpu.launches() == []
    assert make(harness).output_shapes(CASE.tensors(gate_logits=(100, 4))) is None
    assert "x has rank 3 and gate_logits rank 2" in harness.take_log()


def test_wrong_shapes_are_rejected_in_every_step(harness: Harness, gpu: Driver) -> None:
    wrong = CASE.tensors(w2=(64, 64))
    plugin = make(harness)
    reason = "w2 has shape [64, 64], expected [128, 64]"
    plugin.configure(wrong, wrong, wrong)
    assert reason in harness.take_log()
    assert plugin.workspace(wrong, wrong, wrong) == 0
    assert reason in harness.take_log()
    assert plugin.change_shapes(wrong) != 0
    assert reason in harness.take_log()
    assert plugin.enqueue(wrong) != 0
    assert reason in harness.take_log()
    assert gpu.launches() == []
    assert plugin.enqueue(CASE.tensors()) == 0


# Rank and dimensions of outputs while a plugin is configured. TensorRT's headers promise bounds of a profile for
# inputs alone, and NVIDIA's own plugins read no bounds of outputs.
UNSET = [
    (-1, (0,) * 8),
    (0, (0,) * 8),
    (1000, (7,) * 8),
    (-(1 << 31), (-1,) * 8),
    ((1 << 31) - 1, (1 << 31,) * 8),
    (3, (-5, 0, (1 << 62) + 1, 9, 9, 9, 9, 9)),
    (8, (2, 50, 64, 4, 3, 2, 1, -7)),
]


def with_unset(case: Case, indices: range, rank: int, dims: tuple[int, ...]) -> Any:
    tensors = case.tensors()
    for i in indices:
        tensors[i].rank, tensors[i].dims[:] = rank, dims
    return tensors


@pytest.mark.parametrize(("rank", "dims"), UNSET, ids=[str(rank) for rank, _ in UNSET])
def test_dimensions_of_outputs_need_not_be_set_while_configuring(
    harness: Harness, gpu: Driver, rank: int, dims: tuple[int, ...]
) -> None:
    assert gpu.launches() == []
    for cases in ((CURRENT, SMALLEST, LARGEST), (CASE, CASE, CASE)):
        profile = [with_unset(case, range(7, 9), rank, dims) for case in cases]
        plugin = make(harness)
        assert plugin.configure(*profile) == 0
        assert plugin.workspace(*profile) == plan.workspace(cases[2].problem).size
        assert plugin.change_shapes(CASE.tensors()) == 0
        assert harness.take_log() == ""


@pytest.mark.parametrize(("rank", "dims"), UNSET, ids=[str(rank) for rank, _ in UNSET])
def test_bounds_are_not_read_when_shapes_are_known(
    harness: Harness, gpu: Driver, rank: int, dims: tuple[int, ...]
) -> None:
    if harness.is_v3:
        pytest.skip("IPluginV3 is configured for a profile, never for shapes about to run")
    assert gpu.launches() == []
    unset = with_unset(CASE, range(9), rank, dims)
    make(harness).configure(CASE.tensors(), unset, unset)
    assert harness.take_log() == ""


def test_types_of_outputs_are_checked_while_configuring(harness: Harness, gpu: Driver) -> None:
    assert gpu.launches() == []
    for name, found, expected in (("y", "float32", "float16"), ("counts", "float16", "int32")):
        wrong = CASE.tensors(**{name: found})
        make(harness).configure(wrong, wrong, wrong)
        assert f"configurePlugin: {name} is {found}; with x of float16 it must be {expected}" in harness.take_log()


def test_other_formats_are_rejected(harness: Harness, gpu: Driver) -> None:
    tensors = CASE.tensors()
    tensors[0] = c_tensor("float16", CASE.shapes()["x"], linear=False)
    assert make(harness).enqueue(tensors) != 0
    assert "x has format" in harness.take_log()
    assert gpu.launches() == []


def test_more_tokens_than_the_profile_allows_are_rejected(harness: Harness, gpu: Driver) -> None:
    plugin = make(harness)
    assert configure(plugin) == 0
    assert plugin.enqueue(replace(CASE, leading=(8, 201)).tensors()) != 0
    assert "x has 1608 tokens; the optimization profile allows up to 1600" in harness.take_log()
    assert gpu.launches() == []
    assert plugin.enqueue(LARGEST.tensors()) == 0


@pytest.mark.parametrize("name", [*INPUTS, "y", "counts", "workspace"])
def test_null_addresses_are_rejected(harness: Harness, gpu: Driver, name: str) -> None:
    assert make(harness).enqueue(CASE.tensors(), pointers(**{name: 0})) != 0
    assert "is null" in harness.take_log()
    assert gpu.launches() == []


def test_contexts_do_not_share_what_they_set(harness: Harness, gpu: Driver) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no tactics to set")
    plugin = make(harness)
    first, second = plugin.attach(), plugin.attach()
    case = replace(CASE, leading=(64,))
    slow = next(i for i, entry in enumerate(entries()) if entry.alignment == 1 and entry.precision == "half")
    assert first.set_tactic(slow + 1) == 0
    for context, is_slow in ((first, True), (second, False)):
        assert context.enqueue(case.tensors()) == 0
        assert ({run.kernel.entry for run in gpu.launches() if run.kernel.kernel == "up"} == {slow}) == is_slow


def test_tactics_are_offered_for_fixed_shapes_only(harness: Harness, gpu: Driver) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no tactics")
    assert gpu.launches() == []
    plugin = make(harness)
    assert configure(plugin) == 0
    assert plugin.tactics() == []
    dynamic = plugin.timing_id()
    assert plugin.configure(CASE.tensors(), CASE.tensors(), CASE.tensors()) == 0
    tactics = plugin.tactics()
    assert len(tactics) > 1
    assert all("sm_90" in entries()[tactic - 1].archs for tactic in tactics)
    assert plugin.set_tactic(tactics[-1]) == 0
    assert plugin.set_tactic(1000) != 0
    assert "tactic 1000 does not exist" in harness.take_log()
    assert plugin.timing_id() != dynamic


def test_the_timing_cache_id_depends_on_attributes_types_and_shapes(harness: Harness) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no timing cache")
    cases = [
        CASE,
        replace(CASE, activation="relu"),
        replace(CASE, min_learners=2),
        replace(CASE, dtype="float32"),
        replace(CASE, leading=(2, 51)),
        replace(CASE, hidden_dim=64),
        replace(CASE, allow_tf32=True),
    ]
    found = set()
    for case in cases:
        plugin = make(harness, case)
        assert plugin.configure(case.tensors(), case.tensors(), case.tensors()) == 0
        found.add(plugin.timing_id())
    assert len(found) == len(cases)


@pytest.fixture
def without_driver(built: dict[str, Path], tmp_path: Path, headers: TensorRTHeaders) -> Harness:
    """A second copy of the library: each looks for the driver once."""
    assert headers
    library = tmp_path / "copy.so"
    shutil.copy(built["acm_plugin_harness"], library)
    return Harness(library, tmp_path / "libcuda.so.1")


def test_without_a_driver_enqueue_fails_with_a_reason(without_driver: Harness) -> None:
    plugin = make(without_driver)
    assert configure(plugin) == 0
    assert plugin.workspace(CURRENT.tensors(), SMALLEST.tensors(), LARGEST.tensors()) > 0
    loaded = plugin.round_trip().attach()
    without_driver.take_log()
    assert loaded.change_shapes(CASE.tensors()) != 0
    for _ in range(2):
        without_driver.take_log()
        assert loaded.enqueue(CASE.tensors()) != 0
        log = without_driver.take_log()
        assert log.startswith("GatedLearners: enqueue: no CUDA driver: cannot open")
        assert log.count("\n") == 1
    assert loaded.enqueue(replace(CASE, leading=(0, 3)).tensors()) == 0
    assert loaded.clone().round_trip().output_types(CASE.tensors()) == ("float16", "int32")
    fixed = make(without_driver)
    fixed.configure(CASE.tensors(), CASE.tensors(), CASE.tensors())
    assert fixed.tactics() == []
