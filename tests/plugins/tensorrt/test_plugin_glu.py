"""The plugins of gated FFNs as TensorRT drives them, for every set of headers that is found, with a fake driver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set
from plugin_cases import Case, GluCase, QuantizedGluCase, c_tensor
from plugin_core import pointers
from plugin_harness import CASE as PLAIN_CASE
from plugin_harness import Harness, fields_of, make

from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Driver

pytest_plugins = ["plugin_fixtures"]

SIZES: dict[str, Any] = {"leading": (2, 50), "model_dim": 80, "hidden_dim": 24, "num_learners": 3, "min_learners": 1}
FLOAT, INT8 = GluCase(**SIZES), QuantizedGluCase(**SIZES)
UP = {FLOAT.operator: "up_glu", INT8.operator: "up_int8_glu"}
SECOND = [(FLOAT, "v1"), (FLOAT, "c1"), (INT8, "v1"), (INT8, "t1"), (INT8, "c1")]
"""What an operator has besides the inputs of its sister."""

pytestmark = each_header_set()
both = pytest.mark.parametrize("case", [FLOAT, INT8], ids=["float", "int8"])
of_second = pytest.mark.parametrize(("case", "name"), SECOND, ids=[f"{case.operator}-{name}" for case, name in SECOND])


def profile(case: Case) -> list[Any]:
    """Current, smallest and largest tensors of a network with dynamic shapes."""
    return [replace(case, leading=leading).tensors() for leading in ((-1, -1), (1, 1), (8, 200))]


@both
def test_from_fields_to_launches(harness: Harness, gpu: Driver, case: Case) -> None:
    built = make(harness, case)
    tensors = case.tensors()
    assert all(built.supports(pos, tensors) for pos in range(len(case.names)))
    assert built.output_types(tensors) == ("float16", "int32")
    assert built.output_shapes(tensors) == [(2, 50, 80), (2, 50)]
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
        assert not launches or UP[case.operator] in {run.kernel.kernel for run in launches}
    assert harness.take_log() == ""


@both
def test_the_whole_life_in_one_call(harness: Harness, gpu: Driver, case: Case) -> None:
    needed, addresses = plan.workspace(case.problem).size, pointers(case.inputs)
    assert harness.run(case, addresses, workspace_size=0) == needed
    assert gpu.launches() == []
    assert harness.run(case, addresses, workspace_size=needed, times=2) == needed
    up = next(run for run in gpu.launches() if run.kernel.kernel == UP[case.operator])
    for name in (name for each, name in SECOND if each is case):
        argument = "v1_t" if name == "v1" and case.quantized else name
        assert up.arguments[argument] == (name, 0)


@both
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
    assert launches[0].arguments["min_learners"] == 13
    assert up.kernel.dtype == ("" if case.quantized else "tf32")


def test_all_operators_live_side_by_side(harness: Harness, gpu: Driver) -> None:
    plugins = [(make(harness, one), one) for one in (PLAIN_CASE, FLOAT, INT8)]
    for plugin, one in [*plugins, *reversed(plugins)]:
        assert plugin.change_shapes(one.tensors()) == 0, harness.take_log()
        assert plugin.enqueue(one.tensors()) == 0, harness.take_log()
        kernels = {run.kernel.kernel for run in gpu.launches()}
        assert {kernel for kernel in kernels if kernel.startswith("up")} == {UP.get(one.operator, "up")}


def test_timing_cache_ids_of_the_operators_differ(harness: Harness) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no timing cache")
    found = set()
    for case in (Case(**SIZES), FLOAT, INT8):
        plugin = make(harness, case)
        assert plugin.configure(case.tensors(), case.tensors(), case.tensors()) == 0
        found.add(plugin.timing_id())
    assert len(found) == 3


@both
def test_tactics_are_entries_with_a_tile_for_two_products(harness: Harness, gpu: Driver, case: Case) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no tactics")
    assert gpu.launches() == []
    aligned = replace(case, model_dim=768, hidden_dim=768)
    plugin = make(harness, aligned)
    assert plugin.configure(aligned.tensors(), aligned.tensors(), aligned.tensors()) == 0
    assert len(plugin.tactics()) > 1
    assert {entries()[tactic - 1].language for tactic in plugin.tactics()} == {"triton"}


@of_second
def test_types_and_formats_are_checked(harness: Harness, case: Case, name: str) -> None:
    plugin, pos = make(harness, case), case.names.index(name)
    for wrong in ("other", "bfloat16" if case.types()[name] != "bfloat16" else "int8", "int8"):
        assert not plugin.supports(pos, case.tensors(**{name: wrong}))
    tensors = case.tensors()
    tensors[pos] = c_tensor(case.types()[name], case.shapes()[name], linear=False)
    assert not plugin.supports(pos, tensors)


@of_second
def test_wrong_shapes_are_rejected_with_both_values(harness: Harness, gpu: Driver, case: Case, name: str) -> None:
    plugin, wrong = make(harness, case), case.tensors(**{name: (5,)})
    expected = str(list(case.shapes()[name]))
    reason = "has rank 1, expected 2" if len(case.shapes()[name]) == 2 else f"has shape [5], expected {expected}"
    for step in (
        lambda: plugin.configure(wrong, wrong, wrong),
        lambda: plugin.workspace(wrong, wrong, wrong),
        lambda: plugin.change_shapes(wrong),
        lambda: plugin.enqueue(wrong),
    ):
        step()
        log = harness.take_log()
        assert f"{name} {reason}" in log
        assert log.startswith(f"{case.operator}: ")
    assert gpu.launches() == []
    assert plugin.enqueue(case.tensors()) == 0


@of_second
def test_null_addresses_are_rejected(harness: Harness, gpu: Driver, case: Case, name: str) -> None:
    assert make(harness, case).enqueue(case.tensors(), pointers(case.inputs, **{name: 0})) != 0
    assert f"the address of {name} is null" in harness.take_log()
    assert gpu.launches() == []


def test_weights_that_are_not_packed_are_explained(harness: Harness) -> None:
    plugin = make(harness, INT8)
    harness.take_log()
    assert (plugin.output_types(INT8.tensors(v1="int8")) is None) == harness.is_v3  # the older one cannot fail
    assert "v1 is int8; files for TensorRT pack int8 values into int32: rewrite this file with" in harness.take_log()


BAD_FIELDS = [
    (FLOAT, {"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    (
        FLOAT,
        {"activation": "swiglu"},
        "activation is 'swiglu'; it must be one of gelu, gelu_tanh, relu, silu, identity",
    ),
    (FLOAT, {"activation": None}, "field activation is missing; the fields are num_learners, min_learners, activation"),
    (
        FLOAT,
        {"dynamic": 0},
        "unknown field 'dynamic'; the fields are num_learners, min_learners, activation and allow_tf",
    ),
    (
        INT8,
        {"dynamic": 1},
        "dynamic is 1; this plugin supports static scales only (dynamic = 0): quantize the model again",
    ),
    (
        INT8,
        {"allow_tf32": 1},
        "unknown field 'allow_tf32'; the fields are num_learners, min_learners, activation and dyn",
    ),
]


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize(("case", "change", "reason"), BAD_FIELDS, ids=[f"{c.operator}-{f}" for c, f, _ in BAD_FIELDS])
def test_bad_fields_are_rejected(
    harness: Harness, case: Case, change: dict[str, int | str | bytes | None], reason: str, phase: str
) -> None:
    harness.take_log()
    assert harness.create(fields_of(case, **change), case.operator, runtime_phase=phase == "runtime") is None
    log = harness.take_log()
    assert log.startswith(f"{case.operator}: createPlugin: {reason}")
    assert log.count("\n") == 1
