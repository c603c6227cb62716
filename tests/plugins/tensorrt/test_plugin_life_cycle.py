"""The plugins' life cycle as TensorRT drives it, for every set of headers that is found, with a fake driver."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set, each_operator
from plugin_core import pointers
from plugin_harness import (
    CASE,
    CURRENT,
    GLU,
    LARGEST,
    LAYERS,
    QUANTIZED,
    QUANTIZED_GLU,
    SIZES,
    SMALLEST,
    Harness,
    configure,
    fields_of,
    make,
    profile,
)

from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from pathlib import Path

    from plugin_cases import Case
    from plugin_core import Driver

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders


pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()

UP = {
    CASE.operator: "up",
    QUANTIZED.operator: "up_int8",
    GLU.operator: "up_glu",
    QUANTIZED_GLU.operator: "up_int8_glu",
}
"""Kernels of GEMM 1; plain FFNs have another one for many tokens on sm_90."""


@each_operator(LAYERS)
def test_from_fields_to_launches(harness: Harness, gpu: Driver, case: Case) -> None:
    built = make(harness, case)
    tensors = case.tensors()
    assert all(built.supports(pos, tensors) for pos in range(len(case.names)))
    assert built.output_types(tensors) == ("float16", "int32")
    assert built.output_shapes(tensors) == [(2, 50, 64 if case is CASE else 80), (2, 50)]
    assert built.configure(*profile(case)) == 0
    assert built.workspace(*profile(case)) == plan.workspace(replace(case, leading=(8, 200)).problem).size
    loaded = built.round_trip().attach()
    for leading in ((1, 1), (2, 50), (8, 200), (0, 7), (2, 50)):
        shapes = replace(case, leading=leading).tensors()
        assert loaded.change_shapes(shapes) == 0
        modules = gpu.num_modules
        for _ in range(3):
            assert loaded.enqueue(shapes) == 0
        launches = gpu.launches()
        assert bool(launches) == (0 not in leading)
        assert launches == launches[: len(launches) // 3] * 3
        assert gpu.num_modules == modules
        names = {run.kernel.kernel for run in launches}
        up = "up_hopper" if case is CASE and leading == (8, 200) else UP[case.operator]
        assert not launches or up in names
        assert not launches or ("quantize_rows" in names) == case.quantized
    assert harness.take_log() == ""


@each_operator(LAYERS)
def test_the_whole_life_in_one_call(harness: Harness, gpu: Driver, case: Case) -> None:
    needed, addresses = plan.workspace(case.problem).size, pointers(case.inputs)
    assert harness.run(case, addresses, workspace_size=0) == needed
    assert gpu.launches() == []
    assert harness.run(case, addresses, workspace_size=needed, times=5) == needed
    launches = gpu.launches()
    assert len(launches) > 5
    assert launches == launches[: len(launches) // 5] * 5
    up = next(run for run in launches if run.kernel.kernel == UP[case.operator])
    for name in ("w1", "s1", "b1", "v1", "t1", "c1", "h_zero"):
        argument = f"{name}_t" if case.quantized and name in ("w1", "v1") else name
        assert name not in case.inputs or up.arguments[argument] == (name, 0)


@each_operator(LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_of_the_operator_are_supported(harness: Harness, case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    expected = harness.is_v3 or dtype != "bfloat16"  # TensorRT 8 has no bfloat16
    assert all(make(harness, case).supports(pos, case.tensors()) for pos in range(len(case.names))) == expected


@each_operator(LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_attributes_survive_serialization(harness: Harness, gpu: Driver, case: Case, activation: str) -> None:
    wide = replace(case, num_learners=64, min_learners=13, activation=activation, dtype="float32")
    wide = replace(wide, allow_tf32=not case.quantized)
    plugin = make(harness, wide).round_trip().round_trip().clone().attach()
    assert plugin.change_shapes(wide.tensors()) == 0, harness.take_log()
    assert plugin.enqueue(wide.tensors()) == 0, harness.take_log()
    launches = gpu.launches()
    up = next(run for run in launches if run.kernel.kernel == UP[case.operator])
    assert up.arguments["activation"] == ACTIVATIONS.index(activation)
    assert up.arguments["num_learners"] == 64
    assert launches[0].arguments["min_learners"] == 13
    assert up.kernel.dtype == ("" if case.quantized else "tf32")


@pytest.mark.parametrize("cases", [(CASE, QUANTIZED), (CASE, GLU, QUANTIZED_GLU)], ids=["plain", "glu"])
def test_operators_live_side_by_side(harness: Harness, gpu: Driver, cases: tuple[Case, ...]) -> None:
    plugins = [(make(harness, one), one) for one in cases]
    for plugin, one in [*plugins, *reversed(plugins)]:
        assert plugin.change_shapes(one.tensors()) == 0, harness.take_log()
        assert plugin.enqueue(one.tensors()) == 0, harness.take_log()
        kernels = {run.kernel.kernel for run in gpu.launches()}
        assert {kernel for kernel in kernels if kernel.startswith("up")} == {UP[one.operator]}
        assert any(kernel.startswith("quantize") or "int8" in kernel for kernel in kernels) == one.quantized


def test_text_fields_with_and_without_nul(harness: Harness) -> None:
    for activation in ("gelu", b"gelu", b"gelu\0\0\0"):
        assert harness.create(fields_of(CASE, activation=activation))


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


@each_operator(LAYERS)
@pytest.mark.parametrize("widths", [(64, 32), (768, 768)])
def test_tactics_are_offered_for_fixed_shapes_only(
    harness: Harness, gpu: Driver, case: Case, widths: tuple[int, int]
) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no tactics")
    assert gpu.launches() == []
    case = replace(case, model_dim=widths[0], hidden_dim=widths[1])
    plugin = make(harness, case)
    assert plugin.configure(*profile(case)) == 0
    assert plugin.tactics() == []
    dynamic = plugin.timing_id()
    assert plugin.configure(case.tensors(), case.tensors(), case.tensors()) == 0
    tactics = plugin.tactics()
    assert len(tactics) > 1
    offered = [entries()[tactic - 1] for tactic in tactics]
    assert all("sm_90" in entry.archs for entry in offered)
    assert {entry.precision for entry in offered} == {"int8" if case.quantized else "half"}
    if case.glu:  # entries with a tile for two products
        assert {entry.language for entry in offered} == {"triton"}
    assert plugin.set_tactic(tactics[-1]) == 0
    assert plugin.set_tactic(1000) != 0
    assert "tactic 1000 does not exist" in harness.take_log()
    assert plugin.timing_id() != dynamic


@pytest.mark.parametrize(
    "sizes",
    [SIZES, {"num_learners": 4, "min_learners": 0, "model_dim": 64, "hidden_dim": 16}],
    ids=["any", "square W1"],
)
def test_timing_cache_ids_of_the_operators_differ(harness: Harness, sizes: dict[str, Any]) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no timing cache")
    found = set()
    for case in (replace(one, **sizes) for one in LAYERS):
        plugin = make(harness, case)
        assert plugin.configure(case.tensors(), case.tensors(), case.tensors()) == 0
        found.add(plugin.timing_id())
    assert len(found) == len(LAYERS)


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
